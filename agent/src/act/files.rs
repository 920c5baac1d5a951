//! Check of the files that a configuration names: an unreadable secret is found at startup, rather
//! than by the first notification that is not delivered.

use std::path::PathBuf;

use hyper::Uri;

use super::drain::DrainClient;
use crate::{
    config::Config,
    fleet,
    net::{
        header_lines::header_lines, http_client, secret::SecretSource,
        webhook_signature::SigningKeys,
    },
};

const HINT: &str = "create the file, owned by the user that spillway runs as, with mode 0600";

/// A check of the content of a secret.
type Check = fn(&str) -> Result<(), String>;

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    /// Configuration key that names the file.
    pub key: &'static str,
    /// Problem, without the content of the file.
    pub message: String,
    /// Hint for the operator.
    pub hint: String,
    /// Set if the file is a credential and systemd passed none to this process, so that its content
    /// is unknown.
    pub is_unknown: bool,
}

/// Reads every secret and certificate that `config` names, and returns those that cannot be used.
pub fn check_files(config: &Config) -> Vec<FileProblem> {
    let (page, drain, fleet) = (&config.act.page, &config.act.drain, &config.fleet);
    let otlp = &config.export.otlp;
    let secrets: [(_, _, Check); 6] = [
        ("act.page.pagerduty.routing_key_file", &page.pagerduty.routing_key_file, is_routing_key),
        ("act.page.slack.url_file", &page.slack.url_file, is_address),
        ("act.page.webhook.secret_file", &page.webhook.secret_file, is_keys),
        ("act.drain.secret_file", &drain.secret_file, is_keys),
        ("fleet.password_file", &fleet.password_file, |_| Ok(())),
        ("export.otlp.headers_file", &otlp.headers_file, |text| header_lines(text).map(drop)),
    ];
    let secrets = secrets
        .into_iter()
        .filter_map(|(key, secret, check)| check_secret(key, secret.as_ref()?, check));
    let trusted = |key, ca_file: &Option<PathBuf>| {
        let ca_file = Some(ca_file.clone()?);
        Some((key, http_client::TlsOptions { ca_file, client: None }))
    };
    let page_ca = trusted("act.page.ca_file", &page.ca_file);
    let otlp_ca = trusted("export.otlp.ca_file", &otlp.ca_file);
    let endpoint =
        DrainClient::new(drain).map(|endpoint| ("act.drain", endpoint.identity().clone()));
    let has_files = fleet.ca_file.is_some() || fleet.client_cert_file.is_some();
    let coordinator = has_files.then(|| ("fleet", fleet::tls_options(config)));
    let identities = page_ca.into_iter().chain(endpoint).chain(coordinator).chain(otlp_ca);
    let identities = identities.filter_map(|(key, identity)| {
        let wrong = http_client::HttpClient::new(&identity).err()?;
        Some(problem(key, &wrong.to_string(), false))
    });
    secrets.chain(identities).collect()
}

fn check_secret(key: &'static str, secret: &SecretSource, check: Check) -> Option<FileProblem> {
    let read = secret.read();
    let is_unknown = read.is_err() && secret.is_elsewhere();
    let wrong =
        read.and_then(|text| check(&text).map_err(|wrong| format!("{secret}: {wrong}"))).err()?;
    Some(problem(key, &wrong, is_unknown))
}

fn problem(key: &'static str, wrong: &str, is_unknown: bool) -> FileProblem {
    let (message, hint) = wrong.split_once("\n  hint: ").unwrap_or((wrong, HINT));
    FileProblem { key, message: message.to_owned(), hint: hint.to_owned(), is_unknown }
}

fn is_keys(text: &str) -> Result<(), String> {
    SigningKeys::read(text).map(drop).map_err(|error| error.to_string())
}

fn is_routing_key(text: &str) -> Result<(), String> {
    match text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => {
            Err("not a routing key\n  hint: the file must have one line, the integration's key"
                .to_owned())
        }
    }
}

fn is_address(text: &str) -> Result<(), String> {
    let is_one = text.parse::<Uri>().is_ok_and(|uri| {
        uri.host().is_some() && matches!(uri.scheme_str(), Some("https" | "http"))
    });
    if is_one {
        Ok(())
    } else {
        Err("not an address\n  hint: the file must have one line, the webhook's https://… address"
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::config;

    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn every_secret_is_read_and_checked_for_its_use() {
        let dir = std::env::temp_dir().join(format!("spillway-files-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let put = |name: &str, text: &str, mode| {
            fs::write(dir.join(name), text).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        let text = "[act.page.pagerduty]\nrouting_key_file = \"DIR/a\"\n[act.page.slack]\nurl_file \
        = \"DIR/b\"\n\
                    [act.page.webhook]\nurl = \"https://h/\"\nsecret_file = \"DIR/c\"\n\
                    [act.drain]\nurl = \"https://h/\"\nsecret_file = \"DIR/d\"\nca_file \
                    = \"DIR/e\"\n\
                    [fleet]\nbackend = \"etcd\"\nurls = [\"https://h/\"]\nuser = \"spillway\"\n\
                    password_file = \"DIR/f\"\nca_file = \"DIR/g\"\n\
                    [export.otlp]\nurl = \"https://h/\"\nheaders_file = \"DIR/h\"\n\
                    ca_file = \"DIR/i\"\n";
        let config = config::parse(&text.replace("DIR", dir.to_str().unwrap()), "x.toml").unwrap();
        let problems = || -> Vec<_> {
            check_files(&config).into_iter().map(|one| (one.key, one.message)).collect()
        };
        assert_eq!(problems().len(), 9, "{:?}", problems());
        put("a", "R0utingKey", 0o600);
        put("b", "https://hooks.internal/x", 0o640);
        put("c", KEY, 0o600);
        put("d", KEY, 0o600);
        put("h", "api-key: KEY\n", 0o600);
        let wrong = problems();
        let keys: Vec<_> = wrong.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["fleet.password_file", "act.drain", "fleet", "export.otlp.ca_file"]);
        assert!(wrong.iter().all(|(_, why)| why.contains("No such file")), "{wrong:?}");
        put("f", "password", 0o600);
        put("g", "no certificate", 0o644);
        put("a", "two words", 0o600);
        put("b", "no address", 0o600);
        put("c", "whsec_short", 0o600);
        put("d", KEY, 0o604);
        put("e", "no certificate", 0o644);
        put("h", "s3cret", 0o600);
        put("i", "no certificate", 0o644);
        let wrong = problems();
        for (at, expected) in [
            "not a routing key",
            "not an address",
            "line 1 is not a key",
            "has mode 0604",
            "line 1 is no header",
            "no certificate",
            "no certificate",
            "no certificate",
        ]
        .iter()
        .enumerate()
        {
            assert!(wrong[at].1.contains(expected), "{wrong:?}");
        }
        assert!(
            !wrong.iter().any(|(_, why)| {
                ["two words", "whsec_", "s3cret"].iter().any(|secret| why.contains(secret))
            }),
            "{wrong:?}"
        );
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn credential_is_unknown_outside_of_the_unit() {
        let config =
            config::parse("[act.page.slack]\nurl_file = \"credential:slack\"\n", "x.toml").unwrap();
        let problems = check_files(&config);
        assert!(
            matches!(&problems[..], [one] if one.is_unknown && one.hint.contains("LoadCredential=slack")),
            "{problems:?}"
        );
    }
}
