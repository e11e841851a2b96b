//! Tables for people.

use comfy_table::{CellAlignment, Table, presets};

/// A table without lines: headings in capitals, columns aligned, easy to cut and grep.
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Puts numbers to the right.
pub fn right(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Prints it without trailing spaces.
pub fn print(table: &Table) {
    for line in table.lines() {
        println!("{}", line.trim_end());
    }
}

/// Prints a value as JSON, readable.
pub fn print_json(value: &serde_json::Value) {
    println!("{value:#}");
}
