//! The Property Identifiers (§2.2.2.2), the type of each one's value, and a walk over encoded
//! properties that looks for one of them.

use crate::DecodeError;
use crate::reader::Reader;

/// How the value of a property is represented (§1.5).
#[derive(Clone, Copy)]
enum Kind {
    Byte,
    TwoByte,
    FourByte,
    Variable,
    /// A UTF-8 string or Binary Data: on the wire a two-byte length and the bytes.
    Prefixed,
    Pair,
}

macro_rules! properties {
    ($($name:ident = $identifier:literal, $kind:ident, $text:literal, $section:literal;)*) => {
        /// A property (§2.2.2.2). `as u8` is its Property Identifier.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Property { $($name = $identifier,)* }

        impl Property {
            /// The property with this identifier, if the specification knows it.
            #[inline]
            pub fn from_u8(identifier: u8) -> Option<Self> {
                match identifier { $($identifier => Some(Self::$name),)* _ => None }
            }

            /// The specification's name for it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The section of the specification that gives its range and multiplicity.
            pub fn section(self) -> &'static str {
                match self { $(Self::$name => $section,)* }
            }

            #[inline]
            fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)* }
            }
        }
    };
}

properties! {
    PayloadFormatIndicator = 0x01, Byte, "Payload Format Indicator", "§3.3.2.3.2";
    MessageExpiryInterval = 0x02, FourByte, "Message Expiry Interval", "§3.3.2.3.3";
    ContentType = 0x03, Prefixed, "Content Type", "§3.3.2.3.9";
    ResponseTopic = 0x08, Prefixed, "Response Topic", "§3.3.2.3.5";
    CorrelationData = 0x09, Prefixed, "Correlation Data", "§3.3.2.3.6";
    SubscriptionIdentifier = 0x0b, Variable, "Subscription Identifier", "§3.8.2.1.2";
    SessionExpiryInterval = 0x11, FourByte, "Session Expiry Interval", "§3.1.2.11.2";
    AssignedClientIdentifier = 0x12, Prefixed, "Assigned Client Identifier", "§3.2.2.3.7";
    ServerKeepAlive = 0x13, TwoByte, "Server Keep Alive", "§3.2.2.3.14";
    AuthenticationMethod = 0x15, Prefixed, "Authentication Method", "§3.1.2.11.9";
    AuthenticationData = 0x16, Prefixed, "Authentication Data", "§3.1.2.11.10";
    RequestProblemInformation = 0x17, Byte, "Request Problem Information", "§3.1.2.11.7";
    WillDelayInterval = 0x18, FourByte, "Will Delay Interval", "§3.1.3.2.2";
    RequestResponseInformation = 0x19, Byte, "Request Response Information", "§3.1.2.11.6";
    ResponseInformation = 0x1a, Prefixed, "Response Information", "§3.2.2.3.15";
    ServerReference = 0x1c, Prefixed, "Server Reference", "§3.2.2.3.16";
    ReasonString = 0x1f, Prefixed, "Reason String", "§3.2.2.3.9";
    ReceiveMaximum = 0x21, TwoByte, "Receive Maximum", "§3.1.2.11.3";
    TopicAliasMaximum = 0x22, TwoByte, "Topic Alias Maximum", "§3.1.2.11.5";
    TopicAlias = 0x23, TwoByte, "Topic Alias", "§3.3.2.3.4";
    MaximumQoS = 0x24, Byte, "Maximum QoS", "§3.2.2.3.4";
    RetainAvailable = 0x25, Byte, "Retain Available", "§3.2.2.3.5";
    UserProperty = 0x26, Pair, "User Property", "§3.1.2.11.8";
    MaximumPacketSize = 0x27, FourByte, "Maximum Packet Size", "§3.1.2.11.4";
    WildcardSubscriptionAvailable = 0x28, Byte, "Wildcard Subscription Available", "§3.2.2.3.11";
    SubscriptionIdentifierAvailable = 0x29, Byte,
        "Subscription Identifier Available", "§3.2.2.3.12";
    SharedSubscriptionAvailable = 0x2a, Byte, "Shared Subscription Available", "§3.2.2.3.13";
}

impl<'a> Reader<'a> {
    /// A Property Identifier. All known ones fit in one byte, so a longer Variable Byte Integer
    /// is either unknown or not minimal.
    #[inline]
    pub(super) fn property(&mut self) -> Result<Property, DecodeError> {
        let identifier = self.u8()?;
        Property::from_u8(identifier).ok_or(DecodeError::UnknownProperty { identifier })
    }

    /// Steps over the value of `property`; checks no more than its length.
    fn skip(&mut self, property: Property) -> Result<(), DecodeError> {
        match property.kind() {
            Kind::Byte => self.u8().map(drop),
            Kind::TwoByte => self.u16().map(drop),
            Kind::FourByte => self.u32().map(drop),
            Kind::Variable => self.variable().map(drop),
            Kind::Prefixed => self.binary().map(drop),
            Kind::Pair => self.binary().and_then(|_| self.binary()).map(drop),
        }
    }
}

/// The values of one property among encoded ones, in order, each as its bytes on the wire. Ends
/// early at bytes that are no properties.
#[derive(Clone)]
pub(super) struct Occurrences<'a> {
    wanted: Property,
    reader: Reader<'a>,
}

impl<'a> Occurrences<'a> {
    #[inline]
    pub(super) fn new(wanted: Property, section: &'a [u8]) -> Self {
        Self { wanted, reader: Reader::new(section) }
    }
}

impl<'a> Iterator for Occurrences<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while let Ok(property) = self.reader.property() {
            let value = self.reader.rest();
            self.reader.skip(property).ok()?;
            if property == self.wanted {
                return value.get(..value.len() - self.reader.rest().len());
            }
        }
        None
    }
}

/// The UTF-8 String Pair that a User Property's value is.
pub(super) fn pair_in(value: &[u8]) -> Option<(&str, &str)> {
    Reader::new(value).pair().ok()
}

/// The Variable Byte Integer that a Subscription Identifier's value is.
pub(super) fn variable_in(value: &[u8]) -> Option<u32> {
    Reader::new(value).variable().ok()
}
