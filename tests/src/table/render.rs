//! The table as a person reads it.

use super::Row;

const HEAD: [&str; 6] = ["case", "via proxy", "listener", "original destination", "source seen", "verdict"];

/// The rows as text, columns aligned.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let cells: Vec<_> = rows.iter().map(cells).collect();
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(cells);
    let mut widths = [0; HEAD.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.len());
        }
    }
    lines.insert(1, widths.map(|width| "-".repeat(width)));
    lines.iter().map(|line| align(line, &widths) + "\n").collect()
}

fn cells(row: &Row) -> [String; HEAD.len()] {
    let none = || "-".to_owned();
    let record = row.records.first();
    [
        row.case.name.to_owned(),
        if record.is_some() { "yes" } else { "no" }.to_owned(),
        record.map_or_else(none, |record| record.listener.to_string()),
        record.map_or_else(none, |record| record.original_dst.to_string()),
        row.seen.as_ref().map_or_else(|_| none(), |seen| seen.source.to_string()),
        if row.wrong.is_empty() { "ok".to_owned() } else { format!("WRONG: {}", row.wrong.join("; ")) },
    ]
}

fn align(line: &[String], widths: &[usize]) -> String {
    let padded = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
    padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}
