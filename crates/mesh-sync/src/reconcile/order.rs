//! Items in (hlc, id) order, with counts and sums of any range in logarithmic time.
//!
//! A B+-tree of slots. Every child of an inner node carries the count and the sum of what is below it; a leaf that is
//! only partly in a range is summed anew, so no hash is kept per item.

use super::{key::ItemHasher, slab::Slab};
use crate::Item;

const LEAF: usize = 64;
const FANOUT: usize = 32;

/// Count and sum of the hashes of some items.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Sum {
    pub(super) count: u64,
    pub(super) hash: u128,
}

impl Sum {
    fn plus(self, other: Sum) -> Sum {
        Sum { count: self.count + other.count, hash: self.hash.wrapping_add(other.hash) }
    }

    pub(super) fn minus(self, other: Sum) -> Sum {
        Sum { count: self.count.saturating_sub(other.count), hash: self.hash.wrapping_sub(other.hash) }
    }
}

enum Node {
    Leaf(Vec<u32>),
    Inner(Vec<Child>),
}

struct Child {
    /// Nothing below it is smaller, but for the first child of all.
    first: Item,
    sum: Sum,
    node: Node,
}

/// What the tree looks things up with.
#[derive(Clone, Copy)]
pub(super) struct View<'s> {
    pub(super) slab: &'s Slab,
    pub(super) hasher: &'s ItemHasher,
}

impl View<'_> {
    fn leaf(&self, slots: &[u32]) -> Sum {
        slots.iter().fold(Sum::default(), |sum, slot| {
            sum.plus(Sum { count: 1, hash: self.hasher.hash(self.slab.id(*slot)) })
        })
    }

    fn lower(&self, slots: &[u32], bound: &Item) -> usize {
        slots.partition_point(|slot| self.slab.item(*slot) < bound)
    }
}

/// The tree.
pub(super) struct Order {
    root: Node,
    sum: Sum,
}

impl Default for Order {
    fn default() -> Self {
        Self { root: Node::Leaf(Vec::new()), sum: Sum::default() }
    }
}

impl Order {
    pub(super) fn sum(&self) -> Sum {
        self.sum
    }

    /// The tree of slots that are in order already.
    pub(super) fn from_sorted(view: View<'_>, slots: &[u32]) -> Self {
        let mut level: Vec<Child> = slots
            .chunks(LEAF)
            .map(|slots| Child {
                first: *view.slab.item(slots[0]),
                sum: view.leaf(slots),
                node: Node::Leaf(slots.to_vec()),
            })
            .collect();
        while level.len() > 1 {
            let mut above = Vec::with_capacity(level.len() / FANOUT + 1);
            let mut rest = level.into_iter().peekable();
            while rest.peek().is_some() {
                above.push(parent(rest.by_ref().take(FANOUT).collect()));
            }
            level = above;
        }
        match level.pop() {
            Some(child) => Self { root: child.node, sum: child.sum },
            None => Self::default(),
        }
    }

    /// Whether it holds `item`.
    pub(super) fn find(&self, view: View<'_>, item: &Item) -> Option<u32> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Inner(children) => node = &children[child_of(children, item)].node,
                Node::Leaf(slots) => {
                    let at = view.lower(slots, item);
                    return slots.get(at).copied().filter(|slot| view.slab.item(*slot) == item);
                }
            }
        }
    }

    /// Adds a slot, unless its item is in the tree already; then `false`.
    pub(super) fn insert(&mut self, view: View<'_>, slot: u32, hash: u128) -> bool {
        let added = Sum { count: 1, hash };
        let grown = insert(&mut self.root, view, slot, added);
        if let Grown::Divided(right) = grown {
            let left = std::mem::replace(&mut self.root, Node::Leaf(Vec::new()));
            let sum = self.sum.plus(added).minus(right.sum);
            self.root = Node::Inner(vec![Child { first: Item::START, sum, node: left }, *right]);
        } else if matches!(grown, Grown::Not) {
            return false;
        }
        self.sum = self.sum.plus(added);
        true
    }

    /// Takes out an item that is in the tree.
    pub(super) fn remove(&mut self, view: View<'_>, item: &Item, hash: u128) {
        let removed = Sum { count: 1, hash };
        remove(&mut self.root, view, item, removed);
        self.sum = self.sum.minus(removed);
        while let Node::Inner(children) = &mut self.root
            && children.len() <= 1
        {
            self.root = children.pop().map_or(Node::Leaf(Vec::new()), |child| child.node);
        }
    }

    /// Count and sum of what is below `bound`; of everything, if there is none.
    pub(super) fn below(&self, view: View<'_>, bound: Option<&Item>) -> Sum {
        let Some(bound) = bound else { return self.sum };
        let mut sum = Sum::default();
        let mut node = &self.root;
        loop {
            match node {
                Node::Inner(children) => {
                    let at = child_of(children, bound);
                    sum = children[..at].iter().fold(sum, |sum, child| sum.plus(child.sum));
                    node = &children[at].node;
                }
                Node::Leaf(slots) => return sum.plus(view.leaf(&slots[..view.lower(slots, bound)])),
            }
        }
    }

    /// How many items are below `bound`; cheaper than their sum.
    pub(super) fn rank(&self, view: View<'_>, bound: Option<&Item>) -> u64 {
        let Some(bound) = bound else { return self.sum.count };
        let mut rank = 0;
        let mut node = &self.root;
        loop {
            match node {
                Node::Inner(children) => {
                    let at = child_of(children, bound);
                    rank += children[..at].iter().map(|child| child.sum.count).sum::<u64>();
                    node = &children[at].node;
                }
                Node::Leaf(slots) => return rank + view.lower(slots, bound) as u64,
            }
        }
    }

    /// The slot of the item that `rank` others are below.
    pub(super) fn select(&self, rank: u64) -> Option<u32> {
        let mut rank = rank;
        let mut node = &self.root;
        'down: loop {
            match node {
                Node::Inner(children) => {
                    for child in children {
                        if rank < child.sum.count {
                            node = &child.node;
                            continue 'down;
                        }
                        rank -= child.sum.count;
                    }
                    return None;
                }
                Node::Leaf(slots) => return slots.get(usize::try_from(rank).ok()?).copied(),
            }
        }
    }

    /// The slots from `lower` to below `upper`, in order, until `visit` says to stop.
    pub(super) fn visit(
        &self,
        view: View<'_>,
        lower: &Item,
        upper: Option<&Item>,
        visit: &mut dyn FnMut(u32) -> bool,
    ) {
        walk(&self.root, view, lower, upper, visit);
    }

    pub(super) fn bytes(&self) -> usize {
        bytes(&self.root)
    }
}

fn parent(mut children: Vec<Child>) -> Child {
    children.reserve_exact(FANOUT.saturating_sub(children.len()));
    Child {
        first: children[0].first,
        sum: children.iter().fold(Sum::default(), |sum, child| sum.plus(child.sum)),
        node: Node::Inner(children),
    }
}

fn child_of(children: &[Child], item: &Item) -> usize {
    children.partition_point(|child| child.first <= *item).saturating_sub(1)
}

/// What came of an insertion.
enum Grown {
    /// The item was there.
    Not,
    Within,
    /// The node was full; this is its new right neighbour.
    Divided(Box<Child>),
}

/// A full node is divided in the middle, but before its last item when it grew at its end, as it does when entries come
/// in order. Then nodes stay full.
fn insert(node: &mut Node, view: View<'_>, slot: u32, added: Sum) -> Grown {
    let item = view.slab.item(slot);
    match node {
        Node::Leaf(slots) => {
            let at = view.lower(slots, item);
            if slots.get(at).is_some_and(|slot| view.slab.item(*slot) == item) {
                return Grown::Not;
            }
            if slots.len() < LEAF {
                slots.insert(at, slot);
                return Grown::Within;
            }
            let mut right = Vec::with_capacity(LEAF);
            if at == LEAF {
                right.push(slot);
            } else {
                right.extend(slots.drain(LEAF / 2..));
                match at.checked_sub(LEAF / 2) {
                    Some(at) => right.insert(at, slot),
                    None => slots.insert(at, slot),
                }
            }
            let (first, sum) = (*view.slab.item(right[0]), view.leaf(&right));
            Grown::Divided(Box::new(Child { first, sum, node: Node::Leaf(right) }))
        }
        Node::Inner(children) => {
            let at = child_of(children, item);
            let child = &mut children[at];
            let grown = insert(&mut child.node, view, slot, added);
            if matches!(grown, Grown::Not) {
                return grown;
            }
            child.sum = child.sum.plus(added);
            let Grown::Divided(right) = grown else { return grown };
            child.sum = child.sum.minus(right.sum);
            children.insert(at + 1, *right);
            if children.len() <= FANOUT {
                return Grown::Within;
            }
            let division = if at + 2 == children.len() { children.len() - 1 } else { children.len() / 2 };
            Grown::Divided(Box::new(parent(children.drain(division..).collect())))
        }
    }
}

fn remove(node: &mut Node, view: View<'_>, item: &Item, removed: Sum) {
    match node {
        Node::Leaf(slots) => {
            let at = view.lower(slots, item);
            slots.remove(at);
        }
        Node::Inner(children) => {
            let at = child_of(children, item);
            children[at].sum = children[at].sum.minus(removed);
            remove(&mut children[at].node, view, item, removed);
            if children[at].sum.count == 0 {
                children.remove(at);
            } else if at > 0 {
                join(children, at - 1);
            } else if children.len() > 1 {
                join(children, 0);
            }
        }
    }
}

/// Puts two small neighbours together.
fn join(children: &mut Vec<Child>, left: usize) {
    let fits = match (&children[left].node, &children[left + 1].node) {
        (Node::Leaf(a), Node::Leaf(b)) => a.len() + b.len() <= LEAF / 2,
        (Node::Inner(a), Node::Inner(b)) => a.len() + b.len() <= FANOUT / 2,
        _ => false,
    };
    if !fits {
        return;
    }
    let right = children.remove(left + 1);
    let child = &mut children[left];
    child.sum = child.sum.plus(right.sum);
    match (&mut child.node, right.node) {
        (Node::Leaf(a), Node::Leaf(b)) => a.extend(b),
        (Node::Inner(a), Node::Inner(b)) => a.extend(b),
        _ => {}
    }
}

fn walk(
    node: &Node,
    view: View<'_>,
    lower: &Item,
    upper: Option<&Item>,
    visit: &mut dyn FnMut(u32) -> bool,
) -> bool {
    match node {
        Node::Leaf(slots) => {
            let from = view.lower(slots, lower);
            let to = upper.map_or(slots.len(), |upper| view.lower(slots, upper));
            slots.get(from..to).is_none_or(|slots| slots.iter().all(|slot| visit(*slot)))
        }
        Node::Inner(children) => {
            let from = child_of(children, lower);
            children[from..]
                .iter()
                .enumerate()
                .take_while(|(n, child)| *n == 0 || upper.is_none_or(|upper| child.first < *upper))
                .all(|(_, child)| walk(&child.node, view, lower, upper, visit))
        }
    }
}

fn bytes(node: &Node) -> usize {
    match node {
        Node::Leaf(slots) => slots.capacity() * 4,
        Node::Inner(children) => {
            children.capacity() * size_of::<Child>()
                + children.iter().map(|child| bytes(&child.node)).sum::<usize>()
        }
    }
}
