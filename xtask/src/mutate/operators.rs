//! The mutants of a Solidity source: one small change each, of the kinds that a wrong line of code has.

use std::ops::Range;

/// One change of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// Bytes of the source that are replaced.
    pub span: Range<usize>,
    /// What stands there instead.
    pub replacement: String,
    /// Line of the change, from 1.
    pub line: usize,
    /// `before → after`, on one line.
    pub change: String,
}

/// Token swaps, longest first; each left side is tried at its own place only (`<` is not looked for inside `<=`).
const SWAPS: [(&str, &str); 25] = [
    ("<<", ">>"),
    (">>", "<<"),
    ("<=", "<"),
    (">=", ">"),
    ("==", "!="),
    ("!=", "=="),
    ("&&", "||"),
    ("||", "&&"),
    ("+=", "-="),
    ("-=", "+="),
    ("++", "--"),
    ("=>", "=>"),
    ("**", "**"),
    ("<", "<="),
    (">", ">="),
    ("+", "-"),
    ("-", "+"),
    ("*", "/"),
    ("/", "*"),
    ("&", "|"),
    ("|", "&"),
    ("~", ""),
    ("!", ""),
    ("Math.min(", "Math.max("),
    ("Math.max(", "Math.min("),
];

/// Modifiers that guard a function; a mutant lacks one.
const GUARDS: [&str; 9] = [
    " nonReentrant",
    " whenDepositsOpen",
    " onlyOwner",
    " onlyGuardian",
    " onlyCaller(settlement)",
    " onlyCaller(registry)",
    " onlyCaller(guardian)",
    "        nonReentrant\n",
    "        onlyCaller(settlement)\n",
];

/// Every mutant of `source`, in the order of the source.
pub fn mutants(source: &str) -> Vec<Mutant> {
    let code = masked(source);
    let mut found = Vec::new();
    swaps(&code, &mut found);
    numbers(&code, &mut found);
    conditions(&code, &mut found);
    statements(&code, &mut found);
    guards(&code, &mut found);
    found.sort_by_key(|(span, replacement): &(Range<usize>, String)| (span.start, span.end, replacement.clone()));
    found.dedup();
    found.into_iter().map(|(span, replacement)| describe(source, span, replacement)).collect()
}

/// The source with comments, strings, imports and everything outside functions blanked, so that only code is changed.
fn masked(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = vec![b' '; bytes.len()];
    let (mut depth, mut at) = (0_usize, 0_usize);
    while at < bytes.len() {
        let rest = &source[at..];
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if depth == 0 && rest.starts_with("import ") {
            rest.find(';').map_or(rest.len(), |end| end + 1)
        } else if let Some(text) = rest.strip_prefix('"') {
            text.find('"').map_or(rest.len(), |end| end + 2)
        } else {
            0
        };
        if skip > 0 {
            at += skip;
            continue;
        }
        match bytes[at] {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        // Depth 0 is pragmas and imports; depth 1 is a contract's own lines, of which constants and function heads count.
        if depth > 0 || bytes[at] == b'\n' {
            code[at] = bytes[at];
        }
        at += 1;
    }
    String::from_utf8(code).unwrap_or_default()
}

fn swaps(code: &str, found: &mut Vec<(Range<usize>, String)>) {
    let mut at = 0;
    while at < code.len() {
        let Some((from, to)) = SWAPS.iter().find(|(from, _)| code[at..].starts_with(from)) else {
            at += code[at..].chars().next().map_or(1, char::len_utf8);
            continue;
        };
        let of_a_type = from == &"<" && code[..at].ends_with("mapping");
        if from != to && !of_a_type && in_statement(code, at) {
            found.push((at..at + from.len(), (*to).to_owned()));
        }
        at += from.len();
    }
}

/// Whether `at` is on a line of a function's body or of a constant, and not in a type, a signature or a path.
fn in_statement(code: &str, at: usize) -> bool {
    let start = code[..at].rfind('\n').map_or(0, |end| end + 1);
    let line = code[start..].lines().next().unwrap_or_default().trim_start();
    !["function ", "event ", "error ", "struct ", "mapping(", "using ", "modifier ", "constructor(", "import "]
        .iter()
        .any(|word| line.starts_with(word))
}

fn numbers(code: &str, found: &mut Vec<(Range<usize>, String)>) {
    let bytes = code.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let before = if at == 0 { b' ' } else { bytes[at - 1] };
        let starts = bytes[at].is_ascii_digit() && !before.is_ascii_alphanumeric() && before != b'_' && before != b'.';
        let length = bytes[at..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count().max(1);
        if starts && in_statement(code, at) {
            let digits = code[at..at + length].replace('_', "");
            if let Ok(number) = digits.parse::<u64>() {
                found.push((at..at + length, (number + 1).to_string()));
                if number > 0 {
                    found.push((at..at + length, (number - 1).to_string()));
                }
            }
        }
        at += length;
    }
}

/// `if (c)` as `if (!(c))`, and the two arms of a conditional expression exchanged.
fn conditions(code: &str, found: &mut Vec<(Range<usize>, String)>) {
    for (at, _) in code.match_indices("if (") {
        let open = at + 3;
        if let Some(close) = matching(code, open) {
            found.push((open..close + 1, format!("(!{})", &code[open..=close])));
        }
    }
    for (at, _) in code.match_indices(" ? ") {
        let end = code[at..].find(';').map_or(code.len(), |end| at + end);
        let Some(colon) = code[at..end].find(" : ").map(|colon| at + colon) else { continue };
        // The arm ends where the expression does: at the statement's end or at an unmatched bracket.
        let mut depth = 0_i32;
        let arm = code[colon + 3..end].find(|letter: char| {
            depth += i32::from(letter == '(') - i32::from(letter == ')');
            depth < 0 || (depth == 0 && letter == ',')
        });
        let end = arm.map_or(end, |arm| colon + 3 + arm);
        found.push((at + 3..end, format!("{} : {}", &code[colon + 3..end], &code[at + 3..colon])));
    }
}

/// Statements that can be left out: calls, assignments, events, checks.
fn statements(code: &str, found: &mut Vec<(Range<usize>, String)>) {
    let mut start = 0;
    let mut depth = 0_usize;
    for (at, letter) in code.char_indices() {
        match letter {
            '{' => {
                depth += 1;
                start = at + 1;
            }
            '}' => {
                depth = depth.saturating_sub(1);
                start = at + 1;
            }
            ';' => {
                let text = &code[start..at];
                let from = start + (text.len() - text.trim_start().len());
                if depth >= 2 && is_removable(text.trim()) {
                    found.push((from..at + 1, "{}".to_owned()));
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

fn is_removable(statement: &str) -> bool {
    let statement = statement.strip_prefix("else ").unwrap_or(statement);
    let word: &str = statement.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).next().unwrap_or_default();
    let declares = |kind: &str| {
        statement.starts_with(kind) && statement[kind.len()..].trim_start().starts_with(|l: char| l.is_alphabetic() || l == '_')
    };
    if statement.is_empty()
        || ["return", "for", "continue", "break", "unchecked", "assembly", "revert", "try", "if", "while"].contains(&word)
    {
        return false;
    }
    // `type name = …` declares; `(type name, …) = …` too.
    let declared = statement.starts_with('(')
        && statement.contains(" = ")
        && statement[1..].contains(char::is_whitespace)
        && ["uint", "bool", "address", "bytes"].iter().any(|kind| statement[1..].trim_start().starts_with(kind));
    let kinds = ["uint256", "uint64", "uint48", "uint40", "uint32", "uint16", "int64", "bool", "address", "bytes32", "bytes memory"];
    let custom = statement.split_whitespace().next().is_some_and(|first| {
        first.starts_with(|letter: char| letter.is_uppercase())
            && !first.contains('(')
            && !first.contains('[')
            && statement.contains(' ')
            && statement.split_whitespace().nth(1).is_some_and(|second| second != "=")
    });
    !declared && !custom && !kinds.iter().any(|kind| declares(kind)) && !statement.starts_with("uint32[]")
}

fn guards(code: &str, found: &mut Vec<(Range<usize>, String)>) {
    for guard in GUARDS {
        for (at, _) in code.match_indices(guard) {
            let declares = code[..at].ends_with("modifier");
            if !declares {
                found.push((at..at + guard.len(), String::new()));
            }
        }
    }
}

/// The bracket that closes the one at `open`.
fn matching(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_i32;
    code[open..].char_indices().find_map(|(at, letter)| {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        (depth == 0).then_some(open + at)
    })
}

fn describe(source: &str, span: Range<usize>, replacement: String) -> Mutant {
    let line = source[..span.start].matches('\n').count() + 1;
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (first, last) = (
        source[..span.start].rfind('\n').map_or(0, |end| end + 1),
        source[span.end..].find('\n').map_or(source.len(), |end| span.end + end),
    );
    let after = format!("{}{replacement}{}", &source[first..span.start], &source[span.end..last]);
    let change = format!("{} → {}", words(&source[first..last]), words(&after));
    Mutant { span, replacement, line, change }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(body: &str) -> Vec<String> {
        let source = format!("import {{A}} from \"a\";\ncontract C {{\n    function f() external {{\n        {body}\n    }}\n}}\n");
        let apply = |mutant: Mutant| {
            let mut text = source.clone();
            text.replace_range(mutant.span, &mutant.replacement);
            text.lines().nth(3).unwrap_or_default().trim().to_owned()
        };
        mutants(&source).into_iter().map(apply).collect()
    }

    #[test]
    fn comparisons_move_by_one_and_conditions_turn_around() {
        assert_eq!(changes("if (a < b) return;"), ["if (!(a < b)) return;", "if (a <= b) return;"]);
    }

    #[test]
    fn a_check_is_left_out() {
        assert_eq!(changes("require(a == b, Wrong(a));"), ["{}", "require(a != b, Wrong(a));"]);
    }

    #[test]
    fn arms_and_constants_change() {
        assert_eq!(changes("x = c ? a : b;"), ["{}", "x = c ? b : a;"]);
        assert_eq!(changes("uint256 x = 1;"), ["uint256 x = 0;", "uint256 x = 2;"]);
    }

    #[test]
    fn comments_strings_and_declarations_stay() {
        assert_eq!(changes("uint256 x; // a + b"), Vec::<String>::new());
        assert_eq!(changes("(uint64 x, uint64 y) = f(\"a + b\");"), Vec::<String>::new());
    }

    #[test]
    fn a_guard_is_left_out() {
        let source = "contract C {\n    function f() external nonReentrant {}\n}\n";
        let spans: Vec<_> = mutants(source).into_iter().map(|mutant| (mutant.line, source[mutant.span].to_owned())).collect();
        assert_eq!(spans, [(2, " nonReentrant".to_owned())]);
    }
}
