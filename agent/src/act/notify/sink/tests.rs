use super::*;

fn sink(name: &str) -> Box<dyn Sink> {
    all().into_iter().find(|sink| sink.name() == name).unwrap()
}

fn classify(sink: &dyn Sink, status: u16, body: &[u8]) -> Delivery {
    sink.classify(&SinkReply { status, retry_after: None, body })
}

#[test]
fn pagerduty_takes_an_event_only_in_its_own_words() {
    let pagerduty = sink("pagerduty");
    let success = br#"{"status":"success","message":"Event processed","dedup_key":"k"}"#;
    assert_eq!(classify(&*pagerduty, 202, success), Delivery::Taken);
    let invalid =
        br#"{"status":"invalid event","message":"Event object is invalid","errors":["no"]}"#;
    let Delivery::Refused(why) = classify(&*pagerduty, 400, invalid) else { panic!() };
    assert!(why.starts_with("HTTP 400: {\"status\":\"invalid event\""), "{why}");
    for status in [301, 410, 429, 500] {
        let delivery = classify(&*pagerduty, status, b"");
        assert!(matches!(delivery, Delivery::Later(None, _)), "{status}");
    }
    for (status, body) in
        [(200, &success[..]), (202, b"<html>"), (202, b""), (502, b""), (504, b"")]
    {
        let delivery = classify(&*pagerduty, status, body);
        assert!(matches!(delivery, Delivery::Unknown(_)), "{status}");
    }
}

#[test]
fn retry_after_is_bounded() {
    for sink in all() {
        let retry_after = Some(Duration::from_hours(24));
        let delivery = sink.classify(&SinkReply { status: 429, retry_after, body: b"" });
        assert!(
            matches!(delivery, Delivery::Later(Some(delay), _) if delay == RETRY_AFTER_MAX),
            "{}: {delivery:?}",
            sink.name()
        );
    }
}

#[test]
fn each_receiver_has_its_own_success() {
    let slack = sink("slack");
    assert_eq!(classify(&*slack, 200, b"ok\n"), Delivery::Taken);
    assert!(matches!(classify(&*slack, 200, b"<html>please log in"), Delivery::Unknown(_)));
    let webhook = sink("webhook");
    assert_eq!(classify(&*webhook, 204, b""), Delivery::Taken);
    assert!(matches!(classify(&*webhook, 410, b""), Delivery::Closed(_)));
    let alertmanager = sink("alertmanager");
    assert_eq!(classify(&*alertmanager, 200, b""), Delivery::Taken);
    assert!(matches!(classify(&*alertmanager, 202, b""), Delivery::Unknown(_)));
}

#[test]
fn sinks_have_different_names_in_a_stable_order() {
    // The spool on disk and the metrics know a sink by its name.
    let names: Vec<_> = all().iter().map(|sink| sink.name()).collect();
    assert_eq!(names, ["pagerduty", "alertmanager", "slack", "webhook"]);
}

#[test]
fn only_alertmanager_gets_no_changes_of_the_host() {
    for sink in all() {
        assert_eq!(sink.wants(Update::Changed), sink.name() != "alertmanager");
        let all = [Update::Raised, Update::Updated, Update::Resolved];
        assert!(all.iter().all(|update| sink.wants(*update)), "{}", sink.name());
    }
}

/// A sample of a sink as a contributor would write it: all that the seam asks for.
#[derive(Debug)]
struct Sample;

impl Sink for Sample {
    fn name(&self) -> &'static str {
        "sample"
    }

    fn encode(&self, notification: &Notification) -> Bytes {
        Bytes::from(notification.summary.clone())
    }

    fn request(
        &self,
        _notification: &Notification,
        body: Bytes,
        _unix_secs: u64,
    ) -> Result<OutgoingRequest, SecretError> {
        let url = "http://127.0.0.1/sample".to_owned();
        Ok(OutgoingRequest { url, headers: Vec::new(), body, redactor: Redactor::default() })
    }

    fn classify(&self, reply: &SinkReply<'_>) -> Delivery {
        reply.classify(reply.status == 200)
    }
}

#[test]
fn a_sample_sink_needs_one_file_and_one_constructor() {
    let new: Constructor = |page, _links| page.in_observe.then(|| Box::new(Sample) as _);
    let mut page = crate::config::Config::default().act.page;
    assert!(new(&page, &Links::default()).is_none());
    page.in_observe = true;
    let sample = new(&page, &Links::default()).unwrap();
    let raised = crate::act::notify::tests::notification("1", "a", Update::Raised);
    assert!(sample.wants(raised.update));
    let request = sample.request(&raised, sample.encode(&raised), 0).unwrap();
    assert_eq!((&request.body[..], sample.name()), (&b"1"[..], "sample"));
    assert_eq!(classify(&*sample, 200, b""), Delivery::Taken);
    assert!(matches!(classify(&*sample, 503, b""), Delivery::Later(None, _)));
}
