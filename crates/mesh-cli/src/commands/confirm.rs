//! Asks a person before something is changed that can't be taken back.

use std::io::{self, IsTerminal};

use tokio::io::AsyncBufReadExt;

use crate::{
    failure::{Exit, Failure},
    output,
};

/// Says what would happen and asks a person to type `yes`; without one the answer is no. `not_done` says in
/// the failure what was not done.
pub(super) async fn confirm(plan: &str, not_done: &str) -> Result<(), Failure> {
    output::message(plan);
    let refused =
        |why: &str| Failure::new(Exit::Refused, format!("{not_done}: {why}")).next("add --yes to do it");
    if !io::stdin().is_terminal() {
        return Err(refused("nobody is there to confirm it"));
    }
    output::message("type yes to go on:");
    let mut answer = String::new();
    let read = tokio::io::BufReader::new(tokio::io::stdin()).read_line(&mut answer).await;
    match read {
        Ok(_) if answer.trim() == "yes" => Ok(()),
        _ => Err(refused("it was not confirmed")),
    }
}
