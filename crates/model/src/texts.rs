//! Generated texts for property tests: of lengths around a limit, with characters of every class anywhere in them.
//! Other crates include this file in their tests.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Characters that rules tell apart: letters and digits; the other characters of names; blanks; control characters of ASCII and of Latin-1;
/// blanks of Unicode; letters of two, three and four bytes; what is not seen; what marks or quotes something elsewhere.
const CLASSES: [&str; 9] = [
    "azAZ09",
    "%|_-",
    " ",
    "\t\n\r\0\u{1b}\u{7f}",
    "\u{80}\u{85}\u{9f}",
    "\u{a0}\u{2028}\u{3000}",
    "\u{e4}\u{20ac}\u{8a02}\u{1f600}",
    "\u{200b}\u{202e}\u{feff}",
    "./\\\"'*+:@,",
];

/// A character of any class.
pub fn character() -> impl Strategy<Value = char> {
    let classes = CLASSES.map(|class| class.chars().collect::<Vec<_>>());
    prop_oneof![9 => select(classes.to_vec()).prop_flat_map(select), 1 => any::<char>()]
}

/// A text of 0 to twice `limit` bytes, often just as long as the limit or one byte off: mostly of one plain character, in which up to two
/// others stand in for one each.
pub fn text(limit: usize) -> impl Strategy<Value = String> {
    let bytes = prop_oneof![
        1 => 0..=2_usize,
        4 => limit.saturating_sub(2)..=limit + 2,
        2 => 0..=limit,
        1 => limit..=2 * limit,
    ];
    let filler = prop_oneof![4 => select(vec!['a', 'Z', '7', '_', '-']), 2 => character()];
    let strangers = prop_oneof![2 => Just(0..1), 1 => Just(1..3)]
        .prop_flat_map(|count| prop::collection::vec((any::<Index>(), character()), count));
    (bytes, filler, strangers).prop_map(|(bytes, filler, strangers)| {
        let mut characters = vec![filler; bytes / filler.len_utf8()];
        characters.resize(characters.len() + bytes % filler.len_utf8(), 'x');
        for (place, stranger) in strangers {
            if !characters.is_empty() {
                let place = place.index(characters.len());
                characters[place] = stranger;
            }
        }
        characters.into_iter().collect()
    })
}

/// Whether a refusal's text can be shown as it is, on a terminal, in a log and in a header: short, and without control characters.
pub fn is_showable(text: &str) -> bool {
    !text.is_empty() && text.len() <= 2_048 && !text.contains(char::is_control)
}
