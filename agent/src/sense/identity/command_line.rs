//! Command lines for people: on one line, cut, with secrets masked. Pure.
//!
//! Secrets on command lines are common, and a page goes to chats and inboxes, so in doubt a word is
//! masked: what follows a name such as `--password` or `API_TOKEN=`, the password of a URL, and
//! words that look like a key. A secret that is none of these, such as a plain word behind a name
//! that does not tell, is not found.

use crate::sense::printable::printable;

/// Maximum length of what is shown, in characters.
const SHOWN_CHARS_MAX: usize = 200;

/// Replacement of a secret.
const MASK: &str = "[secret]";

/// Words of a name that make its value a secret.
const SECRET_WORDS: [&str; 19] = [
    "apikey",
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "credentials",
    "creds",
    "key",
    "pass",
    "passphrase",
    "passwd",
    "password",
    "pat",
    "pw",
    "pwd",
    "secret",
    "secrets",
    "token",
];

/// Ends of a word that make it one of those, as in `dbpassword`.
const SECRET_ENDS: [&str; 7] =
    ["apikey", "passphrase", "passwd", "password", "secret", "secrets", "token"];

/// Last words of a name whose value says only where the secret is, or something about it.
const HARMLESS_LAST_WORDS: [&str; 13] = [
    "algorithm",
    "dir",
    "directory",
    "file",
    "id",
    "length",
    "name",
    "path",
    "size",
    "timeout",
    "ttl",
    "type",
    "url",
];

/// Beginnings of tokens by which their issuers can be told.
const TOKEN_STARTS: [&str; 17] = [
    "AKIA",
    "ASIA",
    "AIza",
    "SG.",
    "dop_v1_",
    "eyJ",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "hvs.",
    "npm_",
    "pypi-",
    "sk-",
    "sk_live_",
    "xox",
];

/// Minimum length of such a token.
const TOKEN_CHARS_MIN: usize = 16;

/// Minimum length of a word of digits and of letters of both cases that is taken for a key.
const MIXED_CHARS_MIN: usize = 24;

/// Minimum length of a hexadecimal word that is taken for a key: 128 bits.
const HEX_CHARS_MIN: usize = 32;

/// Programs that take a secret behind one letter, and those letters: with the secret in the same
/// word, in the next one, or both.
const SHORT_OPTIONS: [(&str, &str); 11] = [
    ("curl", "u"),
    ("ldapsearch", "w"),
    ("mariadb", "p"),
    ("mariadb-dump", "p"),
    ("mongo", "p"),
    ("mongosh", "p"),
    ("mysql", "p"),
    ("mysqldump", "p"),
    ("redis-cli", "a"),
    ("smbclient", "U"),
    ("sshpass", "p"),
];

/// Returns the contents of `/proc/PID/cmdline` as shown; `None` without a command line, as of
/// kernel threads.
pub fn shown(cmdline: &[u8]) -> Option<String> {
    let arguments: Vec<_> = cmdline.split(|byte| *byte == 0).map(printable).collect();
    let line = arguments.join(" ");
    let words: Vec<&str> = line.split_whitespace().collect();
    let program = words.first()?.rsplit('/').next().unwrap_or_default();
    let letters = SHORT_OPTIONS.iter().find(|(name, _)| *name == program);
    let letters = letters.map_or("", |(_, letters)| letters);
    let mut masked = Vec::with_capacity(words.len());
    let mut is_value = false;
    for word in words {
        let (text, wants_value) = match is_value {
            true => (MASK.to_owned(), false),
            false => mask_word(word, letters),
        };
        // `Authorization: Bearer TOKEN`: the scheme is no secret, the next word is.
        is_value = wants_value || is_value && is_scheme(word);
        masked.push(text);
    }
    let line = masked.join(" ");
    let mut shown: String = line.chars().take(SHOWN_CHARS_MAX).collect();
    if line.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.pop();
        shown.push('…');
    }
    Some(shown)
}

/// Returns a word with its secrets masked, and whether the next word is a secret.
fn mask_word(word: &str, letters: &str) -> (String, bool) {
    let short = word.strip_prefix('-').filter(|rest| rest.starts_with(|c| letters.contains(c)));
    if let Some(rest) = short {
        let letter = &rest[..1];
        return if rest.len() > 1 {
            (format!("-{letter}{MASK}"), false)
        } else {
            (word.to_owned(), true)
        };
    }
    let mut text = String::with_capacity(word.len());
    let mut rest = word;
    // `NAME=VALUE` and `"NAME": "VALUE"`, one or many, with what separates them kept.
    while let Some(at) = rest.find(['=', ':']) {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        text.push_str(&mask_tokens(before));
        text.push_str(&rest[at..=at]);
        let is_url = rest[at..].starts_with("://");
        rest = after;
        if is_url {
            let end = after.find(['?', '#', '"', '\'']).unwrap_or(after.len());
            text.push_str(&mask_userinfo(&after[..end]));
            rest = &after[end..];
            continue;
        }
        let name = before.trim_end_matches(['"', '\'', '\\']);
        let name = name.rsplit(|c: char| !is_name(c)).next().unwrap_or_default();
        if is_secret_name(name) {
            let value = after.trim_start_matches(['"', '\'', '\\']);
            let end = value.find(['&', ';', ',', '"', '\'', '}']).unwrap_or(value.len());
            if value.is_empty() {
                text.push_str(after);
                return (text, true);
            }
            text.push_str(&after[..after.len() - value.len()]);
            text.push_str(MASK);
            rest = &value[end..];
            if is_scheme(&value[..end]) {
                text.push_str(rest);
                return (text, true);
            }
        }
    }
    text.push_str(&mask_tokens(rest));
    // `--password VALUE`.
    let is_flag = word.starts_with('-') && !word.contains(['=', ':']);
    (text, is_flag && is_secret_name(word.trim_start_matches('-')))
}

/// Returns whether a word only says how the secret behind it is to be used.
fn is_scheme(word: &str) -> bool {
    let word = word.trim_matches(['"', '\'', ':']);
    ["basic", "bearer", "digest", "token"].iter().any(|scheme| word.eq_ignore_ascii_case(scheme))
}

/// Masks the password in what follows `SCHEME:` of a URL.
fn mask_userinfo(rest: &str) -> String {
    let authority_end =
        rest.strip_prefix("//").and_then(|rest| rest.find('/')).map_or(rest.len(), |at| at + 2);
    let Some(at) = rest[..authority_end].rfind('@') else { return mask_tokens(rest) };
    let user = rest[..at].split_once(':').map_or("", |(user, _)| user.trim_start_matches('/'));
    let user = if user.is_empty() { String::new() } else { format!("{}:", mask_tokens(user)) };
    format!("//{user}{MASK}{}", mask_tokens(&rest[at..]))
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Returns whether the value of something with this name is a secret.
fn is_secret_name(name: &str) -> bool {
    let words: Vec<String> = words_of(name);
    let is_harmless = words.last().is_none_or(|last| HARMLESS_LAST_WORDS.contains(&last.as_str()));
    let is_secret = |word: &String| {
        SECRET_WORDS.contains(&word.as_str()) || SECRET_ENDS.iter().any(|end| word.ends_with(end))
    };
    !is_harmless && words.iter().any(is_secret)
}

/// Returns the words of a name in lower case: `apiKey`, `api_key`, `API-KEY`, `api.key`.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        let is_break = matches!(c, '_' | '-' | '.') || was_lower && c.is_ascii_uppercase();
        if is_break && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if c.is_ascii_alphanumeric() {
            words.last_mut().unwrap_or(&mut String::new()).push(c.to_ascii_lowercase());
        }
        was_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Masks the parts of a text that look like keys.
fn mask_tokens(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_of_token(c)).unwrap_or(rest.len());
        let token = &rest[..end];
        masked.push_str(if is_token(token) { MASK } else { token });
        let other = rest[end..].find(is_of_token).map_or(rest.len(), |at| end + at);
        masked.push_str(&rest[end..other]);
        rest = &rest[other..];
    }
    masked
}

/// Returns whether a character may be part of a key. Keys in base 64 may contain `/`, but so do
/// paths, of which every part is looked at on its own.
fn is_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+')
}

fn is_token(token: &str) -> bool {
    let has = |is: fn(&char) -> bool| token.chars().any(|c| is(&c));
    let is_mixed = has(char::is_ascii_digit)
        && has(char::is_ascii_uppercase)
        && has(char::is_ascii_lowercase)
        && !token.contains('.');
    let is_hex = token.chars().all(|c| c.is_ascii_hexdigit());
    let is_issued = TOKEN_STARTS.iter().any(|start| token.starts_with(start));
    is_issued && token.len() >= TOKEN_CHARS_MIN
        || is_mixed && token.len() >= MIXED_CHARS_MIN
        || is_hex && token.len() >= HEX_CHARS_MIN
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(arguments: &[&str]) -> String {
        shown(arguments.join("\0").as_bytes()).unwrap_or_default()
    }

    #[test]
    fn secrets_are_masked_and_the_rest_is_kept() {
        for (arguments, expected) in [
            (&["/usr/bin/api", "--port", "80"][..], "/usr/bin/api --port 80"),
            (&["api", "--password", "hunter2", "-v"], "api --password [secret] -v"),
            (&["api", "--password=hunter2"], "api --password=[secret]"),
            (&["api", "--api-key=hunter2"], "api --api-key=[secret]"),
            (&["java", "-Ddb.password=hunter2", "-Xmx1g"], "java -Ddb.password=[secret] -Xmx1g"),
            (&["env", "DB_PASSWORD=hunter2", "PORT=80"], "env DB_PASSWORD=[secret] PORT=80"),
            (&["api", "--token-file", "/etc/token"], "api --token-file /etc/token"),
            (
                &["api", "--db", "postgres://app:hunter2@db/shop"],
                "api --db postgres://app:[secret]@db/shop",
            ),
            (
                &["api", "https://x.example/?a=1&token=hunter2&b=2"],
                "api https://x.example/?a=1&token=[secret]&b=2",
            ),
            (
                &["api", r#"{"user":"a","password":"hunter2"}"#],
                r#"api {"user":"a","password":"[secret]"}"#,
            ),
            (
                &["curl", "-H", "Authorization: Bearer hunter2", "x"],
                "curl -H Authorization: [secret] [secret] x",
            ),
            (&["curl", "-u", "app:hunter2", "x"], "curl -u [secret] x"),
            (&["mysql", "-uapp", "-phunter2", "shop"], "mysql -uapp -p[secret] shop"),
            (&["ls", "-phunter2"], "ls -phunter2"),
            (&["/usr/bin/redis-cli", "-a", "hunter2"], "/usr/bin/redis-cli -a [secret]"),
            (&["deploy", "ghp_abcdefghijklmnop0123"], "deploy [secret]"),
            (&["deploy", "0123456789abcdef0123456789abcdef"], "deploy [secret]"),
            (&["bash", "-c", "api --secret hunter2"], "bash -c api --secret [secret]"),
            (&["postgres: writer process"], "postgres: writer process"),
            (&["nginx: worker process"], "nginx: worker process"),
            (
                &["api", "[::]:80", "a=b", "--max-old-space-size=512"],
                "api [::]:80 a=b --max-old-space-size=512",
            ),
        ] {
            assert_eq!(of(arguments), expected, "{arguments:?}");
        }
    }

    #[test]
    fn hostile_command_lines_are_one_short_printable_line() {
        assert_eq!(shown(b""), None);
        assert_eq!(shown(b"\0\0 \0"), None);
        assert_eq!(of(&["a\x1b[31m\nb", "c\u{202e}d"]), "a\\x1b[31m\\x0ab c\\xe2\\x80\\xaed");
        let long = of(&[&"x ".repeat(5_000)]);
        assert_eq!((long.chars().count(), long.ends_with('…')), (SHOWN_CHARS_MAX, true));
    }

    proptest! {
        #[test]
        fn value_of_a_secret_is_never_shown(
            before in "[a-z]{1,8}( --?[a-z]{1,8}(=[a-z0-9]{0,6})?){0,3}",
            name in prop::sample::select(vec![
                "--password", "--db-password", "--api-key", "--token", "--authToken", "--secret",
            ]),
            separator in prop::sample::select(vec!["=", "\0"]),
            value in "QZ[a-zA-Z0-9_/+.-]{6,40}",
        ) {
            let line = format!("{}\0{name}{separator}{value}\0--end", before.replace(' ', "\0"));
            let shown = shown(line.as_bytes()).unwrap();
            prop_assert!(!shown.contains("QZ"), "{shown}");
        }

        #[test]
        fn any_bytes_give_a_printable_line(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Some(line) = shown(&bytes) {
                prop_assert!(line.chars().count() <= SHOWN_CHARS_MAX);
                prop_assert!(!line.contains(char::is_control));
            }
        }
    }
}
