//! Which lines of a text changed: the longest common subsequence stays, the rest is shown.

/// Lines only in `old` with `- `, lines only in `new` with `+ `, in the order of the texts.
pub(crate) fn line_diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let prefix = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let rest = old.len().min(new.len()) - prefix;
    let suffix = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(old, new)| old == new).count();
    changes(&old[prefix..old.len() - suffix], &new[prefix..new.len() - suffix]).concat()
}

fn changes(old: &[&str], new: &[&str]) -> Vec<String> {
    let common = common_lengths(old, new);
    let (mut i, mut j, mut shown) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            shown.push(format!("- {}\n", old[i]));
            i += 1;
        } else {
            shown.push(format!("+ {}\n", new[j]));
            j += 1;
        }
    }
    shown
}

/// `[i][j]`: how many lines `old[i..]` and `new[j..]` have in common, in order.
fn common_lengths(old: &[&str], new: &[&str]) -> Vec<Vec<usize>> {
    let mut common = vec![vec![0; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] =
                if old[i] == new[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::line_diff;

    #[test]
    fn a_line_that_is_also_elsewhere_shows() {
        assert_eq!(line_diff("a {\n}\n", "a {\n}\nb {\n}\n"), "+ b {\n+ }\n");
    }

    #[test]
    fn what_stays_does_not_show() {
        assert_eq!(line_diff("1\n2\n3\n4\n5\n", "1\n3\nx\n4\ny\n"), "- 2\n+ x\n- 5\n+ y\n");
        assert_eq!(line_diff("same\n", "same\n"), "");
    }
}
