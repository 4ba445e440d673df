//! Topic Names and Topic Filters (§4.7, §4.8).

use octopus_mqtt::*;

#[test]
fn lawful_topic_names_are_taken() {
    let longest = "t".repeat(65_535);
    for name in ["a", "/", "//", " ", "a b/ü", "$SYS/x", "ACCOUNTS", "$share/g", longest.as_str()]
    {
        assert_eq!(TopicName::parse(name).map(TopicName::as_str), Ok(name));
    }
}

#[test]
fn unlawful_topic_names_are_refused() {
    let too_long = "t".repeat(65_536);
    let cases = [
        ("", TopicError::EmptyTopicName),
        ("a/+", TopicError::WildcardInTopicName),
        ("a/b+c", TopicError::WildcardInTopicName),
        ("#", TopicError::WildcardInTopicName),
        ("a\0b", TopicError::NullCharacter),
        (too_long.as_str(), TopicError::TooLong),
    ];
    for (name, error) in cases {
        assert_eq!(TopicName::parse(name), Err(error), "{name:.20}");
    }
}

#[test]
fn a_special_character_is_found_wherever_it_stands() {
    for len in 1..80 {
        for at in 0..len {
            for special in ['+', '#', '\0'] {
                let mut name = vec!['x'; len];
                name[at] = special;
                let name: String = name.into_iter().collect();
                assert!(TopicName::parse(&name).is_err(), "{special:?} at {at} of {len}");
            }
        }
    }
}

#[test]
fn lawful_filters_are_taken() {
    let filters = [
        "a",
        "/",
        "#",
        "+",
        "+/+",
        "/+",
        "+/#",
        "a/+/b/#",
        "/#",
        "$SYS/#",
        "a//b",
        "$share",
        "$share/g/#",
        "$share/g/+/a",
        "$share/g//",
        "$shared/x",
        "$sharex/+",
    ];
    for filter in filters {
        assert_eq!(TopicFilter::parse(filter).map(TopicFilter::as_str), Ok(filter));
    }
}

#[test]
fn unlawful_filters_are_refused() {
    let too_long = "t".repeat(65_536);
    let cases = [
        ("", TopicError::EmptyTopicFilter),
        ("a#", TopicError::MisplacedMultiLevelWildcard),
        ("a/#/b", TopicError::MisplacedMultiLevelWildcard),
        ("#/", TopicError::MisplacedMultiLevelWildcard),
        ("##", TopicError::MisplacedMultiLevelWildcard),
        ("a+", TopicError::MisplacedSingleLevelWildcard),
        ("a/+b/c", TopicError::MisplacedSingleLevelWildcard),
        ("++", TopicError::MisplacedSingleLevelWildcard),
        ("a\0", TopicError::NullCharacter),
        (too_long.as_str(), TopicError::TooLong),
        ("$share/", TopicError::ShareNameInvalid),
        ("$share//a", TopicError::ShareNameInvalid),
        ("$share/g+/a", TopicError::ShareNameInvalid),
        ("$share/#/a", TopicError::ShareNameInvalid),
        ("$share/g", TopicError::ShareWithoutFilter),
        ("$share/g/", TopicError::ShareWithoutFilter),
        ("$share/g/a#", TopicError::MisplacedMultiLevelWildcard),
        ("$share/g\0/a", TopicError::NullCharacter),
    ];
    for (filter, error) in cases {
        assert_eq!(TopicFilter::parse(filter), Err(error), "{filter:.20}");
    }
}

/// The examples of §4.7.1.2 to §4.7.3 and what they leave open.
#[test]
fn filters_match_as_the_specification_says() {
    let cases = [
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/#", "sport", true),
        ("sport/#", "sports", false),
        ("#", "a", true),
        ("#", "/", true),
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("+/#", "a", true),
        ("a/b", "a/b", true),
        ("a/b", "a/b/", false),
        ("a/b/", "a/b", false),
        ("a", "/a", false),
        ("ACCOUNTS", "Accounts", false),
        ("#", "$SYS/monitor/Clients", false),
        ("+/monitor/Clients", "$SYS/monitor/Clients", false),
        ("$SYS/#", "$SYS/monitor/Clients", true),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ("a/+", "a/$b", true),
        ("$share/g/a/+", "a/b", true),
        ("$share/g/a/+", "$share/g/a/b", false),
        ("$share/g/#", "$SYS/x", false),
    ];
    for (filter, name, expected) in cases {
        let (parsed, topic) =
            (TopicFilter::parse(filter).unwrap(), TopicName::parse(name).unwrap());
        assert_eq!(parsed.matches(topic), expected, "{filter} {name}");
    }
}

#[test]
fn a_shared_filter_falls_into_group_and_filter() {
    let shared = TopicFilter::parse("$share/group/+/a").unwrap();
    assert_eq!(shared.shared(), Some(("group", TopicFilter::parse("+/a").unwrap())));
    let rooted = TopicFilter::parse("$share/group//a").unwrap();
    assert_eq!(rooted.shared().map(|(_, filter)| filter.as_str()), Some("/a"));
    assert_eq!(TopicFilter::parse("$SYS/group/a").unwrap().shared(), None);
}

#[test]
fn levels_may_be_empty() {
    let levels: Vec<&str> = TopicName::parse("/a//").unwrap().levels().collect();
    assert_eq!(levels, ["", "a", "", ""]);
    assert!(TopicFilter::parse("a/+").unwrap().has_wildcard());
    assert!(!TopicFilter::parse("a/b").unwrap().has_wildcard());
}
