//! Tables in the manner of kubectl: columns, no lines.

use comfy_table::{ContentArrangement, Table, TableStyle};
use serde_json::Value;

/// A column: its title and how to get a cell.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The title, in capitals.
    pub title: &'static str,
    /// Whether it is shown with `-o wide` alone.
    pub wide: bool,
    /// The text of a row's cell; an empty one is shown as `-`.
    pub cell: fn(&Value) -> String,
}

/// The items as a table.
pub fn table(columns: &[Column], items: &[Value], wide: bool) -> String {
    let columns: Vec<&Column> = columns.iter().filter(|column| wide || !column.wide).collect();
    let mut table = Table::new();
    // Rows are never wrapped: a line is an item, so that grep and awk work.
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| column.title));
    for item in items {
        table.add_row(columns.iter().map(|column| {
            let text = (column.cell)(item);
            if text.is_empty() { "-".to_owned() } else { text }
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
