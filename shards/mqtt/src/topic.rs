//! Topic Names and Topic Filters (§4.7): parsed once, then the type is the proof.

/// A Topic Name: not empty, no wildcard, no U+0000, at most 65,535 bytes of UTF-8
/// [MQTT-3.3.2-2], [MQTT-4.7.3-1].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName<'a>(pub(crate) &'a str);

/// A Topic Filter: `#` only as the last level, wildcards alone in their level
/// [MQTT-4.7.1-1], [MQTT-4.7.1-2]. May be a shared one, `$share/{group}/{filter}` (§4.8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter<'a>(pub(crate) &'a str);
