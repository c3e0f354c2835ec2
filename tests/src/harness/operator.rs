//! Somebody with an operator's certificate, who watches one node and asks it things.

use std::{
    path::Path,
    sync::mpsc as replies,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use mesh_cli::{
    client::Edge,
    context::{Context, Target},
    failure::Failure,
};
use tokio::{runtime, sync::mpsc, time};

use super::{
    board::{Addresses, Board},
    lab::Namespace,
};

const WATCH: &str = "/control/v1/peers";
/// Pause before a broken stream is opened again.
const AGAIN: Duration = Duration::from_millis(50);
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Follows one run of a node; what the node tells goes to the board. It ends when this value goes.
#[derive(Debug)]
pub struct Operator {
    questions: Option<mpsc::Sender<Question>>,
    thread: Option<JoinHandle<()>>,
}

/// What a plain page such as `/readyz` said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The HTTP status.
    pub status: u16,
    /// The text.
    pub body: String,
}

#[derive(Debug)]
struct Question {
    path: String,
    reply: replies::SyncSender<Result<Page, Failure>>,
}

impl Operator {
    /// Starts to follow `node` with the certificate in a folder. An operator has a thread of its own, so
    /// that it can live in the node's network.
    ///
    /// # Errors
    ///
    /// The certificate can't be used, or the namespace not be entered.
    pub fn follow(
        node: &str,
        addresses: Addresses,
        certificate: &Path,
        namespace: Option<Namespace>,
        board: &Board,
    ) -> Result<Self> {
        let context = Context {
            edge: vec![addresses.edge.to_string()],
            certificate: certificate.join("node.pem"),
            key: certificate.join("node.key"),
            trust_bundle: certificate.join("roots.pem"),
        };
        let target = Target { name: node.to_owned(), context, timeout: PATIENCE };
        let (questions, asked) = mpsc::channel(16);
        let (started, starts) = replies::sync_channel(1);
        let (node, board) = (node.to_owned(), board.clone());
        let thread = thread::spawn(move || {
            let entered = namespace.map_or(Ok(()), |namespace| namespace.enter());
            let runtime =
                runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from);
            let runtime = entered.and(runtime);
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return started.send(Err(error)).unwrap_or_default(),
            };
            runtime.block_on(async {
                match Edge::new(target).await {
                    Ok(edge) => {
                        // Whoever starts us waits for this.
                        let _ = started.send(Ok(()));
                        serve(&edge, asked, &node, &board).await;
                    }
                    Err(failure) => started.send(Err(anyhow!("{failure}"))).unwrap_or_default(),
                }
            });
        });
        starts.recv().context("the operator's thread ended")??;
        Ok(Self { questions: Some(questions), thread: Some(thread) })
    }

    /// Asks for a page.
    ///
    /// # Errors
    ///
    /// Nobody answered within ten seconds.
    pub fn page(&self, path: &str) -> Result<Page> {
        let (reply, answer) = replies::sync_channel(1);
        let questions = self.questions.as_ref().context("the operator has stopped")?;
        let question = Question { path: path.to_owned(), reply };
        questions.blocking_send(question).ok().context("the operator's thread ended")?;
        answer.recv().context("the operator's thread ended")?.map_err(|failure| anyhow!("{path}: {failure}"))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.questions = None;
        if let Some(thread) = self.thread.take() {
            // A panic of its has been printed.
            let _ = thread.join();
        }
    }
}

/// Follows the members and answers questions, until nobody can ask any more.
async fn serve(edge: &Edge, mut asked: mpsc::Receiver<Question>, node: &str, board: &Board) {
    let answers = async {
        while let Some(Question { path, reply }) = asked.recv().await {
            let page = edge.page(&path).await;
            let page = page.map(|(status, body)| Page { status: status.as_u16(), body });
            // Who asked may have gone.
            let _ = reply.send(page);
        }
    };
    tokio::select! {
        () = answers => {}
        () = follow(edge, node, board) => {}
    }
}

/// Opens the stream again whenever it breaks: a node may be paused, or refuse for a while.
async fn follow(edge: &Edge, node: &str, board: &Board) {
    loop {
        if let Err(failure) = follow_once(edge, node, board).await {
            board.logged(node, format!("(operator) {failure}"));
        }
        time::sleep(AGAIN).await;
    }
}

async fn follow_once(edge: &Edge, node: &str, board: &Board) -> Result<(), Failure> {
    let mut events = edge.events(WATCH, &[("watch".to_owned(), String::new())], None).await?;
    while let Some(event) = events.next().await? {
        match event.event.as_str() {
            "snapshot" => match serde_json::from_str(&event.data) {
                Ok(snapshot) => board.snapshot(node, snapshot),
                Err(error) => board.logged(node, format!("(operator) an unreadable snapshot: {error}")),
            },
            "change" => match serde_json::from_str(&event.data) {
                Ok(change) => board.told(node, change),
                Err(error) => board.logged(node, format!("(operator) an unreadable change: {error}")),
            },
            _ => {}
        }
    }
    Ok(())
}
