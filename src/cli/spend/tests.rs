use super::*;
use crate::view::SpendRow;

fn sums(settled: &str, count: u64) -> SpendSums {
    let zero = || "0.00".to_owned();
    SpendSums {
        settled: settled.to_owned(),
        outstanding: "0.50".to_owned(),
        armed: "0.30".to_owned(),
        unknown: "0.20".to_owned(),
        held: zero(),
        returned: zero(),
        count,
    }
}

fn view(by: &[&str], rows: &[(&[&str], &str)]) -> SpendView {
    SpendView {
        by: by.iter().map(|by| (*by).to_owned()).collect(),
        zone: "Europe/Berlin".to_owned(),
        since: None,
        until: None,
        rows: rows
            .iter()
            .map(|(key, settled)| SpendRow {
                key: key.iter().map(|key| (*key).to_owned()).collect(),
                sums: sums(settled, 3),
            })
            .collect(),
        total: sums("9.00", 9),
        begins_at: None,
        unverified: None,
        is_shared: false,
    }
}

#[test]
fn a_spreadsheet_takes_no_text_for_a_formula_and_no_figure_for_a_text() {
    for (text, cell) in [
        ("api.example.com", "api.example.com"),
        ("=1+1", "'=1+1"),
        ("+49", "'+49"),
        ("-x", "'-x"),
        ("@sum", "'@sum"),
        ("a,b", "\"a,b\""),
        ("a\"b", "\"a\"\"b\""),
        ("=\"a\"", "\"'=\"\"a\"\"\""),
    ] {
        assert_eq!(text_cell(text), cell);
    }
    for hostile in ["\tx", "\rx", "a\nb"] {
        let cell = text_cell(hostile);
        assert!(!cell.contains(['\t', '\r', '\n']), "{cell:?}");
    }
    assert!(text_cell("\t=1").starts_with('\''));
    let table = csv(&view(&["merchant", "day"], &[(&["-1.example", "2026-11-20"], "-1.00")]));
    assert_eq!(
        table,
        "merchant,day,zone,settled_usd,outstanding_usd,armed_usd,unknown_usd,held_usd,returned_usd,count\r\n\
         '-1.example,2026-11-20,Europe/Berlin,-1.00,0.50,0.30,0.20,0.00,0.00,3\r\n"
    );
}

#[test]
fn text_is_aligned_and_has_bars_only_on_a_terminal() {
    let view = view(&["agent"], &[(&["research"], "1.00"), (&["w"], "100.00")]);
    let plain = Look {
        width: 80,
        is_terminal: false,
        has_colours: false,
    };
    let expected = "US dollars, all that the journal holds, Europe/Berlin\n\
                    agent     settled  outstanding  held  returned  count\n\
                    research     1.00         0.50  0.00      0.00      3\n\
                    w          100.00         0.50  0.00      0.00      3\n\
                    total        9.00         0.50  0.00      0.00      9\n";
    assert_eq!(text(&view, plain), expected);
    let terminal = Look {
        is_terminal: true,
        ..plain
    };
    let drawn = text(&view, terminal);
    assert!(drawn.lines().all(|line| line.chars().count() <= 80), "{drawn}");
    assert!(drawn.contains("3  #######################:\n"), "{drawn}");
    assert!(drawn.contains("3  #:\n"), "{drawn}");
    let narrow = Look { width: 60, ..terminal };
    assert_eq!(text(&view, narrow), expected);
}
