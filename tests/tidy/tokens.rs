//! Rust source as a flat list of tokens, so that rules see code and never strings or comments,
//! and see it inside macros too.

use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A token and its line. Literals are reduced to their quotes: no rule looks into them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

pub(crate) fn flatten(text: &str) -> Vec<Token> {
    let stream = TokenStream::from_str(text).expect("a Rust file consists of tokens");
    let mut tokens = Vec::new();
    push_all(stream, &mut tokens);
    tokens
}

/// The lines on which `pattern`, itself Rust tokens, occurs.
pub(crate) fn lines_with(tokens: &[Token], pattern: &str) -> Vec<usize> {
    let pattern: Vec<String> = flatten(pattern).into_iter().map(|token| token.text).collect();
    let windows = tokens.windows(pattern.len());
    let hits = windows.filter(|window| window.iter().map(|token| &token.text).eq(&pattern));
    hits.map(|window| window[0].line).collect()
}

/// The tokens between the bracket at `open` and its partner.
pub(crate) fn inside(tokens: &[Token], open: usize) -> &[Token] {
    let mut depth = 0usize;
    for (offset, token) in tokens[open..].iter().enumerate() {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &tokens[open + 1..(open + offset).max(open + 1)];
        }
    }
    &tokens[open + 1..]
}

fn push_all(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        let mut push = |text: &str, line| tokens.push(Token { text: text.to_owned(), line });
        match tree {
            TokenTree::Ident(ident) => push(&ident.to_string(), line),
            TokenTree::Punct(punct) => push(&punct.as_char().to_string(), line),
            TokenTree::Literal(_) => push("\"\"", line),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::None => ("", ""),
                };
                push(open, line);
                push_all(group.stream(), tokens);
                tokens
                    .push(Token { text: close.to_owned(), line: group.span_close().start().line });
            }
        }
    }
}

#[test]
fn code_is_seen_and_strings_and_comments_are_not() {
    let tokens = flatten("// a::b\nlet x = \"a::b\";\nm! { a::b };\na :: b");
    assert_eq!(lines_with(&tokens, "a::b"), [3, 4]);
    let tokens = flatten("f(a, [b]) c");
    let texts: Vec<_> = inside(&tokens, 1).iter().map(|token| token.text.as_str()).collect();
    assert_eq!(texts, ["a", ",", "[", "b", "]"]);
}
