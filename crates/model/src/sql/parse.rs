//! Tokens to a condition, by recursive descent of bounded depth.

use super::lex::{Token, bad, tokens};
use super::{Name, Node, Operand, Relation, SQL_DEPTH_MAX, SQL_PROPERTIES_MAX, Search};
use crate::filter::FilterError;

/// An operand, where it begins, and how deep it is.
struct Parsed {
    operand: Operand,
    at: usize,
    depth: usize,
    /// It begins with NOT and is not between brackets.
    is_not: bool,
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    names: Vec<Name>,
    nesting: usize,
}

/// Reads a whole expression.
pub fn parse(text: &str) -> Result<(Node, Box<[Name]>), FilterError> {
    let mut parser = Parser { tokens: tokens(text)?, next: 0, names: Vec::new(), nesting: 0 };
    let condition = parser.or()?;
    let (root, _) = truth(condition)?;
    match parser.peek() {
        Token::End => Ok((root, parser.names.into())),
        other => bad(parser.at(), format!("expected AND, OR or the end, found {}", other.describe())),
    }
}

/// What an operand is where a condition is wanted.
fn truth(parsed: Parsed) -> Result<(Node, usize), FilterError> {
    match parsed.operand {
        Operand::Condition(node) => Ok((*node, parsed.depth)),
        Operand::Property(place) => Ok((Node::Bare(place), parsed.depth)),
        Operand::Integer(_) | Operand::Decimal(_) => bad(parsed.at, "a number is not a condition"),
        Operand::Text(_) => bad(parsed.at, "a text is not a condition"),
    }
}

fn condition(node: Node, at: usize, below: usize) -> Result<Parsed, FilterError> {
    if below >= SQL_DEPTH_MAX {
        return bad(at, format!("nested more than {SQL_DEPTH_MAX} levels deep"));
    }
    Ok(Parsed { operand: Operand::Condition(Box::new(node)), at, depth: below + 1, is_not: false })
}

fn is_null(operand: &Operand) -> bool {
    matches!(operand, Operand::Condition(node) if **node == Node::Constant(None))
}

/// NOT binds more tightly than any comparison, other than in SQL at large: what comes after it is to be between brackets.
fn check_not(parsed: &Parsed) -> Result<(), FilterError> {
    match parsed.is_not {
        true => bad(parsed.at, "NOT before a comparison: put the comparison between brackets"),
        false => Ok(()),
    }
}

/// Only numbers and properties have an order.
fn check_ordered(parsed: &Parsed) -> Result<(), FilterError> {
    check_not(parsed)?;
    match &parsed.operand {
        Operand::Property(_) | Operand::Integer(_) | Operand::Decimal(_) => Ok(()),
        Operand::Text(_) => bad(parsed.at, "a text is neither larger nor smaller, only numbers and properties are"),
        Operand::Condition(_) => {
            bad(parsed.at, "a condition is neither larger nor smaller, only numbers and properties are")
        }
    }
}

fn number_of(operand: &Operand) -> Option<f64> {
    match operand {
        Operand::Integer(number) => Some(*number as f64),
        Operand::Decimal(number) => Some(*number),
        _ => None,
    }
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |(_, token)| token)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).or(self.tokens.last()).map_or(0, |(at, _)| *at)
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn take_word(&mut self, keyword: &str) -> bool {
        let found = self.peek().is_word(keyword);
        self.next += usize::from(found);
        found
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(found) if *found == symbol);
        self.next += usize::from(found);
        found
    }

    fn expect_symbol(&mut self, symbol: &str) -> Result<(), FilterError> {
        if self.take_symbol(symbol) {
            return Ok(());
        }
        bad(self.at(), format!("expected {symbol}, found {}", self.peek().describe()))
    }

    fn expect_text(&mut self) -> Result<Box<str>, FilterError> {
        let at = self.at();
        match self.take() {
            Token::Text(text) => Ok(text.into()),
            other => bad(at, format!("expected a text between single quotes, found {}", other.describe())),
        }
    }

    fn or(&mut self) -> Result<Parsed, FilterError> {
        self.joined("OR", Self::and, Node::Or)
    }

    fn and(&mut self) -> Result<Parsed, FilterError> {
        self.joined("AND", Self::eq, Node::And)
    }

    /// One or more parts with a keyword between them.
    fn joined(
        &mut self,
        keyword: &str,
        part: fn(&mut Self) -> Result<Parsed, FilterError>,
        join: fn(Vec<Node>) -> Node,
    ) -> Result<Parsed, FilterError> {
        let first = part(self)?;
        if !self.peek().is_word(keyword) {
            return Ok(first);
        }
        let at = first.at;
        let (node, mut depth) = truth(first)?;
        let mut nodes = vec![node];
        while self.take_word(keyword) {
            let (node, below) = truth(part(self)?)?;
            nodes.push(node);
            depth = depth.max(below);
        }
        condition(join(nodes), at, depth)
    }

    fn eq(&mut self) -> Result<Parsed, FilterError> {
        let mut left = self.cmp()?;
        loop {
            let at = self.at();
            if matches!(self.peek(), Token::Symbol("=" | "<>")) || self.peek().is_word("IS") {
                check_not(&left)?;
            }
            let relation = if self.take_symbol("=") {
                Relation::Equal
            } else if self.take_symbol("<>") {
                Relation::NotEqual
            } else if self.take_word("IS") {
                let negated = self.take_word("NOT");
                if !self.take_word("NULL") {
                    return bad(self.at(), format!("expected NULL, found {}", self.peek().describe()));
                }
                left = condition(Node::IsNull { operand: left.operand, negated }, left.at, left.depth)?;
                continue;
            } else {
                return Ok(left);
            };
            let right = self.cmp()?;
            if is_null(&left.operand) || is_null(&right.operand) {
                return bad(at, "nothing equals NULL: write IS NULL or IS NOT NULL");
            }
            let is_condition = |operand: &Operand| matches!(operand, Operand::Condition(_));
            let is_number = |operand: &Operand| number_of(operand).is_some();
            if is_condition(&left.operand) && is_number(&right.operand)
                || is_condition(&right.operand) && is_number(&left.operand)
            {
                return bad(at, "a condition is compared with a number");
            }
            let depth = left.depth.max(right.depth);
            left = condition(Node::Compare(relation, left.operand, right.operand), left.at, depth)?;
        }
    }

    fn cmp(&mut self) -> Result<Parsed, FilterError> {
        let mut left = self.unary()?;
        loop {
            let relation = match self.peek() {
                Token::Symbol("<") => Relation::Less,
                Token::Symbol("<=") => Relation::LessOrEqual,
                Token::Symbol(">") => Relation::Greater,
                Token::Symbol(">=") => Relation::GreaterOrEqual,
                Token::Word(_) => match self.predicate(left)? {
                    (done, false) => return Ok(done),
                    (more, true) => {
                        left = more;
                        continue;
                    }
                },
                _ => return Ok(left),
            };
            check_ordered(&left)?;
            self.next += 1;
            let right = self.unary()?;
            check_ordered(&right)?;
            let depth = left.depth.max(right.depth);
            left = condition(Node::Compare(relation, left.operand, right.operand), left.at, depth)?;
        }
    }

    /// What a keyword after an operand makes of it; `false`: nothing, the keyword belongs to somebody else.
    fn predicate(&mut self, left: Parsed) -> Result<(Parsed, bool), FilterError> {
        const PREDICATES: [&str; 6] = ["NOT", "CONTAINS", "STARTSWITH", "ENDSWITH", "BETWEEN", "IN"];
        if PREDICATES.iter().any(|keyword| self.peek().is_word(keyword)) {
            check_not(&left)?;
        }
        let negated = self.take_word("NOT");
        let how = if self.take_word("CONTAINS") {
            Search::Contains
        } else if self.take_word("STARTSWITH") {
            Search::StartsWith
        } else if self.take_word("ENDSWITH") {
            Search::EndsWith
        } else if self.take_word("BETWEEN") {
            return Ok((self.between(left, negated)?, true));
        } else if self.take_word("IN") {
            return Ok((self.membership(left, negated)?, true));
        } else if negated {
            let text = "expected CONTAINS, STARTSWITH, ENDSWITH, BETWEEN or IN after NOT";
            return bad(self.at(), format!("{text}, found {}", self.peek().describe()));
        } else {
            return Ok((left, false));
        };
        let text = self.expect_text()?;
        let node = Node::Search { how, within: left.operand, text, negated };
        Ok((condition(node, left.at, left.depth)?, true))
    }

    fn between(&mut self, left: Parsed, negated: bool) -> Result<Parsed, FilterError> {
        check_ordered(&left)?;
        let low = self.unary()?;
        check_ordered(&low)?;
        if !self.take_word("AND") {
            return bad(self.at(), format!("expected AND, found {}", self.peek().describe()));
        }
        let high = self.unary()?;
        check_ordered(&high)?;
        if let (Some(from), Some(to)) = (number_of(&low.operand), number_of(&high.operand))
            && from > to
        {
            return bad(low.at, format!("BETWEEN {from} AND {to} is empty: the first number is the larger"));
        }
        let compare = |relation, bound: Parsed| Node::Compare(relation, left.operand.clone(), bound.operand);
        let node = match negated {
            false => Node::And(vec![compare(Relation::GreaterOrEqual, low), compare(Relation::LessOrEqual, high)]),
            true => Node::Or(vec![compare(Relation::Less, low), compare(Relation::Greater, high)]),
        };
        condition(node, left.at, left.depth + 1)
    }

    fn membership(&mut self, left: Parsed, negated: bool) -> Result<Parsed, FilterError> {
        let Operand::Property(property) = left.operand else {
            return bad(left.at, "only a property is IN a list");
        };
        self.expect_symbol("(")?;
        let mut members = vec![self.expect_text()?];
        while self.take_symbol(",") {
            members.push(self.expect_text()?);
        }
        self.expect_symbol(")")?;
        members.sort_unstable();
        members.dedup();
        condition(Node::In { property, members: members.into(), negated }, left.at, left.depth)
    }

    fn unary(&mut self) -> Result<Parsed, FilterError> {
        self.nesting += 1;
        if self.nesting > SQL_DEPTH_MAX {
            return bad(self.at(), format!("nested more than {SQL_DEPTH_MAX} levels deep"));
        }
        let parsed = self.unary_within();
        self.nesting -= 1;
        parsed
    }

    fn unary_within(&mut self) -> Result<Parsed, FilterError> {
        let at = self.at();
        if self.take_symbol("+") {
            let parsed = self.unary()?;
            return match parsed.operand {
                Operand::Property(_) | Operand::Integer(_) | Operand::Decimal(_) => Ok(Parsed { at, ..parsed }),
                _ => bad(at, "+ stands before something that is no number"),
            };
        }
        if self.take_symbol("-") {
            if let Token::Integer(number) = *self.peek()
                && number == i64::MIN.unsigned_abs()
            {
                self.next += 1;
                return Ok(Parsed { operand: Operand::Integer(i64::MIN), at, depth: 0, is_not: false });
            }
            let operand = match self.unary()?.operand {
                Operand::Integer(number) => number.checked_neg().map(Operand::Integer),
                Operand::Decimal(number) => Some(Operand::Decimal(-number)),
                _ => None,
            };
            return match operand {
                Some(operand) => Ok(Parsed { operand, at, depth: 0, is_not: false }),
                None => bad(at, "- stands before something that is no number of 64 bits"),
            };
        }
        if self.take_word("NOT") {
            let (node, depth) = truth(self.unary()?)?;
            return Ok(Parsed { is_not: true, ..condition(Node::Not(Box::new(node)), at, depth)? });
        }
        self.primary()
    }

    fn primary(&mut self) -> Result<Parsed, FilterError> {
        const KEYWORDS: [&str; 9] = ["AND", "OR", "NOT", "BETWEEN", "IN", "IS", "CONTAINS", "STARTSWITH", "ENDSWITH"];
        let at = self.at();
        let token = self.take();
        let operand = match token {
            Token::Symbol("(") => {
                let within = self.or()?;
                self.expect_symbol(")")?;
                return Ok(Parsed { at, is_not: false, ..within });
            }
            Token::Integer(number) => match i64::try_from(number) {
                Ok(number) => Operand::Integer(number),
                Err(_) => return bad(at, format!("{number} does not fit 64 bits with a sign")),
            },
            Token::Decimal(number) => Operand::Decimal(number),
            Token::Text(text) => Operand::Text(text.into()),
            Token::Quoted(name) => self.property(&name, at)?,
            Token::Word(word) => {
                let constants = [("TRUE", Some(true)), ("FALSE", Some(false)), ("NULL", None)];
                if let Some((_, value)) = constants.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)) {
                    Operand::Condition(Box::new(Node::Constant(*value)))
                } else if KEYWORDS.iter().any(|keyword| word.eq_ignore_ascii_case(keyword)) {
                    return bad(at, format!("expected a property, a literal or (, found {word}"));
                } else {
                    self.property(&word, at)?
                }
            }
            other => {
                return bad(at, format!("expected a property, a literal or (, found {}", other.describe()));
            }
        };
        Ok(Parsed { operand, at, depth: 0, is_not: false })
    }

    fn property(&mut self, name: &str, at: usize) -> Result<Operand, FilterError> {
        let name = Name::of(name);
        let known = self.names.iter().position(|known| *known == name);
        if known.is_none() && self.names.len() == SQL_PROPERTIES_MAX {
            return bad(at, format!("more than {SQL_PROPERTIES_MAX} different properties"));
        }
        Ok(Operand::Property(known.unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        })))
    }
}
