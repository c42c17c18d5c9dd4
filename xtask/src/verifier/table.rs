//! The table of `docs/verifier.md`: written, read and compared.

use serde::Deserialize;

const HEAD: &str = "\
# What the verifier says

Written by `cargo xtask verifier`; `cargo xtask verifier --check` fails where a figure has grown by more than 5 %.

- **processed**: instructions that the verifier went through, on all paths. It gives up at 1,000,000.
- **stack**: bytes, of the program and its functions together. The limit is 512 for a chain of calls.
- **translated** and **compiled**: bytes of what the kernel made of the program, and of the machine code (x86-64).
- **maps**: how many it uses.

| kernel | program | processed | stack | translated | compiled | maps |
|---|---|---:|---:|---:|---:|---:|
";
const FIGURES: [&str; 5] = ["processed", "stack", "translated", "compiled", "maps"];

/// What `redirect-lab bpf verifier` says of a program.
#[derive(Deserialize)]
pub(super) struct Verified {
    program: String,
    instructions: u64,
    stack: Vec<u64>,
    translated: u64,
    compiled: u64,
    maps: u64,
}

/// A line of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    kernel: String,
    program: String,
    figures: [u64; FIGURES.len()],
}

impl Row {
    /// What a kernel says of a program.
    pub(super) fn new(kernel: &str, verified: &Verified) -> Self {
        let Verified { program, instructions, stack, translated, compiled, maps } = verified;
        let figures = [*instructions, stack.iter().sum(), *translated, *compiled, *maps];
        Self { kernel: kernel.to_owned(), program: program.clone(), figures }
    }

    fn parse(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let [kernel, program, figures @ ..] = cells.as_slice() else { return None };
        let figures: Vec<u64> = figures.iter().map(|figure| figure.parse().ok()).collect::<Option<_>>()?;
        let program = program.trim_matches('`').to_owned();
        Some(Self { kernel: (*kernel).to_owned(), program, figures: figures.try_into().ok()? })
    }
}

/// The whole file.
pub(super) fn render(rows: &[Row]) -> String {
    rows.iter().fold(HEAD.to_owned(), |text, row| {
        let figures = row.figures.map(|figure| figure.to_string()).join(" | ");
        format!("{text}| {} | `{}` | {figures} |\n", row.kernel, row.program)
    })
}

/// The lines of a file.
pub(super) fn parse(text: &str) -> Vec<Row> {
    text.lines().filter_map(Row::parse).collect()
}

/// What has grown by more than a twentieth since `known`, and what is not known, in words.
pub(super) fn grown(known: &[Row], rows: &[Row]) -> Vec<String> {
    let mut grown = Vec::new();
    for row in rows {
        let Some(before) = known.iter().find(|before| (&before.kernel, &before.program) == (&row.kernel, &row.program))
        else {
            grown.push(format!("{} on {} is not in the table", row.program, row.kernel));
            continue;
        };
        for ((name, was), is) in FIGURES.into_iter().zip(before.figures).zip(row.figures) {
            if is * 20 > was * 21 {
                grown.push(format!("{} on {}: {name} was {was} and is {is}", row.program, row.kernel));
            }
        }
    }
    grown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(processed: u64) -> Row {
        Row { kernel: "5.10".to_owned(), program: "empty".to_owned(), figures: [processed, 8, 24, 23, 0] }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(parse(&render(&[row(100), row(7)])), [row(100), row(7)]);
    }

    #[test]
    fn growth_is_seen() {
        assert!(grown(&[row(100)], &[row(105)]).is_empty());
        assert_eq!(grown(&[row(100)], &[row(106)]), ["empty on 5.10: processed was 100 and is 106"]);
        assert_eq!(grown(&[], &[row(1)]).len(), 1);
    }
}
