//! Any text as `--format` and any document: no panic, and errors say what to do.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use unlade_engine::cli;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |b| *b == 0);
    let Ok(template) = std::str::from_utf8(parts.next().unwrap_or_default()) else {
        return;
    };
    // Loops are bounded, but their bound takes seconds.
    let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    if template.contains("range") && template.as_bytes().windows(3).any(digits) {
        return;
    }
    let document: Value = serde_json::from_slice(parts.next().unwrap_or_default())
        .unwrap_or_else(|_| serde_json::json!({ "Id": "a", "Names": ["b"], "Size": 1.5 }));
    match cli::by_template(template, document.clone()) {
        // What has no action stays as it is.
        Ok(text) if !template.contains("{{") => assert_eq!(text, template),
        Ok(_) => {}
        Err(e) => {
            assert!(e.hint().is_some(), "{e:?}");
            assert!(!e.message().contains(['\u{1b}', '\0']), "{e:?}");
        }
    }
    // A document comes through whole. As text: what is read of a fraction may differ in its last
    // digit, and keys may come in another order.
    let json = cli::by_template("{{json .}}", document.clone()).expect("JSON");
    serde_json::from_str::<Value>(&json).expect("JSON");
    assert_eq!(json.len(), document.to_string().len(), "{json}");
});
