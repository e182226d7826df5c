//! Device trees for tests, written as source text: nodes, labels, cells, references, strings and bytes.
//!
//! A small subset of DTS without the preprocessor, so that tests need no `dtc` and a table's row is one replaced line.

use std::collections::HashMap;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

/// Compiles source text; panics with a message where the text is wrong, for a test's author.
pub(crate) fn compile(source: &str) -> Vec<u8> {
    let tokens = tokens(source);
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        phandles: HashMap::new(),
    };
    for window in tokens.windows(2) {
        if let [Token::Symbol('&'), Token::Word(label)] = window {
            let next = parser.phandles.len() as u32 + 0x100;
            parser.phandles.entry(label.clone()).or_insert(next);
        }
    }
    assert_eq!(parser.word(), "/", "a tree begins with its root");
    let mut tree = DeviceTree::new();
    tree.root = parser.node("", None);
    tree.to_dtb()
}

#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Symbol(char),
}

fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = source.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").expect("an open comment").1;
        } else if let Some(text) = rest.strip_prefix('"') {
            let (text, after) = text.split_once('"').expect("an open string");
            tokens.push(Token::Text(text.to_string()));
            rest = after;
        } else if "{}<>[];=,&:".contains(first) && !(first == ',' && rest.starts_with(",_")) {
            tokens.push(Token::Symbol(first));
            rest = &rest[1..];
        } else {
            let end = rest
                .find(|c: char| c.is_whitespace() || "{}<>[];=&:\"".contains(c))
                .unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_string()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    tokens
}

struct Parser<'t> {
    tokens: &'t [Token],
    at: usize,
    phandles: HashMap<String, u32>,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).expect("the text ends too early")
    }
    fn take(&mut self, symbol: char) -> bool {
        let found = *self.peek() == Token::Symbol(symbol);
        self.at += usize::from(found);
        found
    }
    fn word(&mut self) -> String {
        let Token::Word(word) = self.peek() else {
            panic!("expected a word, found {:?}", self.peek())
        };
        let word = word.clone();
        self.at += 1;
        word
    }

    fn node(&mut self, name: &str, label: Option<&str>) -> DeviceTreeNode {
        let mut node = DeviceTreeNode::new_unchecked(name);
        assert!(self.take('{'), "no body: {name}");
        if let Some(phandle) = label.and_then(|label| self.phandles.get(label)) {
            node.add_property(DeviceTreeProperty::new_unchecked("phandle", *phandle));
        }
        while !self.take('}') {
            let mut name = self.word();
            let mut label = None;
            if self.take(':') {
                label = Some(name);
                name = self.word();
            }
            if *self.peek() == Token::Symbol('{') {
                node.add_child(self.node(&name, label.as_deref()));
            } else {
                let value = if self.take('=') { self.value() } else { Vec::new() };
                node.add_property(DeviceTreeProperty::new_unchecked(name, value.as_slice()));
            }
            assert!(self.take(';'), "no ';' before {:?}", self.peek());
        }
        node
    }

    fn value(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            if let Token::Text(text) = self.peek() {
                bytes.extend_from_slice(text.as_bytes());
                bytes.push(0);
                self.at += 1;
            } else if self.take('<') {
                while !self.take('>') {
                    bytes.extend_from_slice(&self.cell().to_be_bytes());
                }
            } else {
                assert!(self.take('['), "no value: {:?}", self.peek());
                while !self.take(']') {
                    bytes.push(u8::from_str_radix(&self.word(), 16).unwrap());
                }
            }
            if !self.take(',') {
                return bytes;
            }
        }
    }

    fn cell(&mut self) -> u32 {
        if self.take('&') {
            let label = self.word();
            return self.phandles[&label];
        }
        let word = self.word();
        match word.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).unwrap(),
            None => word.parse().unwrap(),
        }
    }
}
