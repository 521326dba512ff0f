//! Aligned columns for people.

/// Rows under a header, columns padded to their widest cell, two spaces between.
pub(crate) fn render<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header = header.map(str::to_owned);
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_align_and_lines_have_no_trailing_space() {
        let rows = [
            ["orders".to_owned(), "1".to_owned()],
            ["é".to_owned(), "20".to_owned()],
        ];
        assert_eq!(
            super::render(["NAME", "N"], &rows),
            "NAME    N\norders  1\né       20\n"
        );
    }
}
