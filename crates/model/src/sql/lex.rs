//! Characters to tokens.

use crate::filter::FilterError;

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A keyword or a property.
    Word(String),
    /// A property between double quotes.
    Quoted(String),
    Text(String),
    /// A whole number without its sign.
    Integer(u64),
    Decimal(f64),
    /// An operator or a bracket.
    Symbol(&'static str),
    End,
}

/// Longer ones first.
const SYMBOLS: [&str; 10] = ["<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "+"];
/// Tokens quoted in errors are cut to so many characters.
const QUOTED_CHARS: usize = 40;

/// What of a text stands in an error: its beginning, without control characters.
fn cut(text: &str) -> String {
    text.chars().take(QUOTED_CHARS).flat_map(char::escape_debug).collect()
}

impl Token {
    /// Whether it is this keyword, in any case.
    pub fn is_word(&self, keyword: &str) -> bool {
        matches!(self, Self::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// As errors name it.
    pub fn describe(&self) -> String {
        match self {
            Self::Word(word) => cut(word),
            Self::Quoted(name) => format!("\"{}\"", cut(name)),
            Self::Text(text) => format!("'{}'", cut(text)),
            Self::Integer(number) => number.to_string(),
            Self::Decimal(number) => number.to_string(),
            Self::Symbol(symbol) => (*symbol).to_owned(),
            Self::End => "the end of the expression".to_owned(),
        }
    }
}

pub fn bad<T>(position: usize, reason: impl Into<String>) -> Result<T, FilterError> {
    Err(FilterError::Sql { position, reason: reason.into() })
}

/// All tokens with their byte positions, [`Token::End`] last.
pub fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at = skip_blank(text, at)?;
        let rest = &text[at..];
        let Some(first) = rest.chars().next() else {
            tokens.push((at, Token::End));
            return Ok(tokens);
        };
        let (token, length) = if first == '\'' || first == '"' {
            let (content, length) = quoted(rest, first, at)?;
            match first {
                '\'' => (Token::Text(content), length),
                _ if content.is_empty() => return bad(at, "a property without a name"),
                _ => (Token::Quoted(content), length),
            }
        } else if first.is_ascii_digit() || first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            number(rest, at)?
        } else if starts_name(first) {
            let length = name_length(rest);
            (Token::Word(rest[..length].to_owned()), length)
        } else if first == '-' {
            (Token::Symbol("-"), 1)
        } else if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            (Token::Symbol(symbol), symbol.len())
        } else {
            return bad(at, format!("{first:?} is not part of any expression"));
        };
        tokens.push((at, token));
        at += length;
    }
}

fn skip_blank(text: &str, mut at: usize) -> Result<usize, FilterError> {
    loop {
        let rest = &text[at..];
        let blank = rest.len() - rest.trim_start().len();
        if blank > 0 {
            at += blank;
        } else if rest.starts_with("--") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if let Some(comment) = rest.strip_prefix("/*") {
            match comment.find("*/") {
                Some(end) => at += end + 4,
                None => return bad(at, "a comment without its end"),
            }
        } else {
            return Ok(at);
        }
    }
}

/// What stands between two quotes, doubled ones taken as one, and how much of the text that takes.
fn quoted(rest: &str, quote: char, at: usize) -> Result<(String, usize), FilterError> {
    let mut content = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((place, next)) = chars.next() {
        if next != quote {
            content.push(next);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            content.push(quote);
        } else {
            return Ok((content, place + 1));
        }
    }
    bad(at, format!("{quote} without its other end"))
}

fn starts_name(first: char) -> bool {
    first.is_alphabetic() || first == '_' || first == '$'
}

fn name_length(rest: &str) -> usize {
    let mut length = 0;
    for (place, next) in rest.char_indices() {
        let after = &rest[place..];
        let goes_on = match next {
            // These begin comments.
            '-' => !after.starts_with("--"),
            '/' => !after.starts_with("/*"),
            '.' => true,
            _ => starts_name(next) || next.is_alphanumeric(),
        };
        if !goes_on {
            break;
        }
        length = place + next.len_utf8();
    }
    length
}

fn number(rest: &str, at: usize) -> Result<(Token, usize), FilterError> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(rest);
    let mut length = whole;
    let mut decimal = false;
    if rest[length..].starts_with('.') {
        decimal = true;
        length += 1 + digits(&rest[length + 1..]);
    }
    if rest[length..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[length + 1..].starts_with(['+', '-']));
        let power = digits(&rest[length + 1 + sign..]);
        if power > 0 {
            decimal = true;
            length += 1 + sign + power;
        }
    }
    let text = &rest[..length];
    let token = if decimal {
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Token::Decimal(number),
            _ => return bad(at, format!("{} is not within the range of decimal numbers", cut(text))),
        }
    } else {
        if whole > 1 && text.starts_with('0') {
            return bad(at, format!("{} has leading zeros", cut(text)));
        }
        let Ok(number) = text.parse::<u64>() else {
            return bad(at, format!("{} does not fit 64 bits", cut(text)));
        };
        length += usize::from(rest[length..].starts_with(['l', 'L']));
        Token::Integer(number)
    };
    match rest[length..].chars().next() {
        Some(next) if starts_name(next) || next.is_alphanumeric() || next == '.' => {
            bad(at + length, format!("{next:?} right after a number"))
        }
        _ => Ok((token, length)),
    }
}
