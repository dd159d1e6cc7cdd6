//! The listeners there can be: their names, where they listen unless told otherwise, and which addresses go together.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use super::ConfigError;

/// A listener, named by what is spoken on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listener {
    /// MQTT.
    Mqtt,
    /// MQTT over WebSocket.
    MqttWs,
    /// MQTT over TLS.
    MqttTls,
    /// MQTT over WebSocket in TLS.
    MqttWss,
    /// HTTP.
    Http,
    /// HTTP in TLS.
    Https,
}

impl Listener {
    /// All there can be, in the order in which they are named to people.
    pub const ALL: [Self; 6] = [
        Self::Mqtt,
        Self::MqttWs,
        Self::MqttTls,
        Self::MqttWss,
        Self::Http,
        Self::Https,
    ];

    /// Its option on the command line, without the hyphens before it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::MqttWs => "mqtt-ws",
            Self::MqttTls => "mqtt-tls",
            Self::MqttWss => "mqtt-wss",
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Whether it needs a certificate.
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::MqttTls | Self::MqttWss | Self::Https)
    }

    const fn default(self) -> &'static str {
        match self {
            Self::Mqtt => "127.0.0.1:1883",
            Self::MqttWs => "127.0.0.1:9001",
            Self::Http => "127.0.0.1:8080",
            Self::MqttTls | Self::MqttWss | Self::Https => OFF,
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What stands in place of an address.
const OFF: &str = "off";

/// The listeners that are on, with their addresses; `asked` says what somebody set.
pub(super) fn resolve<'a>(
    asked: impl Fn(Listener) -> Option<&'a str>,
) -> Result<Vec<(Listener, SocketAddr)>, ConfigError> {
    let mut listeners: Vec<(Listener, SocketAddr)> = Vec::new();
    for listener in Listener::ALL {
        let text = asked(listener).unwrap_or(listener.default());
        if text == OFF {
            continue;
        }
        let new = address(listener, text)?;
        if let Some((other, taken)) = listeners.iter().find(|(_, taken)| collide(*taken, new)) {
            return Err(ConfigError(format!(
                "`{other}` on {taken} and `{listener}` on {new} are in each other's way; give one of them another port, \
                 or `{OFF}`"
            )));
        }
        listeners.push((listener, new));
    }
    if listeners.is_empty() {
        let names = Listener::ALL.map(|listener| format!("--{listener}")).join(", ");
        return Err(ConfigError(format!(
            "every listener is off, so nobody could reach the broker; switch on one of {names}"
        )));
    }
    Ok(listeners)
}

/// Whether the system would refuse the second of two.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    // An unspecified address of version 6 takes version 4 as well.
    let covers = |wide: IpAddr, other: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || other.is_ipv4());
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}

pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// `ADDR:PORT`. A name counts as loopback only if it resolves to nothing else, so the first other address wins.
fn address(listener: Listener, text: &str) -> Result<SocketAddr, ConfigError> {
    let wrong = |cause: &str| {
        ConfigError(format!(
            "`{listener}` is `{text}`: {cause}; use ADDR:PORT, as in 127.0.0.1:1883, or `{OFF}`"
        ))
    };
    let found: Vec<SocketAddr> = text
        .to_socket_addrs()
        .map_err(|error| wrong(&error.to_string()))?
        .collect();
    let exposed = found.iter().find(|address| !is_loopback(address.ip()));
    exposed
        .or(found.first())
        .copied()
        .ok_or_else(|| wrong("the name has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(Listener, &'static str)]) -> Result<Vec<(Listener, SocketAddr)>, String> {
        resolve(|listener| {
            let found = pairs.iter().find(|(name, _)| *name == listener);
            found.map(|(_, text)| *text)
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn off_switches_a_listener_off_and_one_has_to_be_on() {
        use Listener::{Http, Mqtt, MqttWs};
        let on = set(&[(Mqtt, "off"), (MqttWs, "off")]).unwrap();
        assert_eq!(on, [(Http, "127.0.0.1:8080".parse().unwrap())]);
        let why = set(&[(Mqtt, "off"), (MqttWs, "off"), (Http, "off")]).unwrap_err();
        assert!(why.contains("--mqtt,") && why.contains("--https"), "{why}");
        assert!(set(&[(Mqtt, "no")]).unwrap_err().contains("or `off`"));
    }

    #[test]
    fn two_listeners_on_one_address_are_an_error_that_names_both() {
        use Listener::{Http, Mqtt, MqttTls, MqttWs};
        let refused = |first: &'static str, second: &'static str| {
            let why = set(&[(MqttWs, first), (MqttTls, second)]).unwrap_err();
            assert!(why.contains("`mqtt-ws`") && why.contains("`mqtt-tls`"), "{why}");
        };
        refused("127.0.0.1:77", "127.0.0.1:77");
        refused("0.0.0.0:77", "127.0.0.1:77");
        refused("127.0.0.1:77", "0.0.0.0:77");
        refused("[::]:77", "127.0.0.1:77");
        for (first, second) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1:77", "127.0.0.2:77"),
            ("0.0.0.0:77", "[::1]:77"),
            ("[::1]:77", "127.0.0.1:77"),
        ] {
            let on = set(&[(Mqtt, first), (MqttWs, second)]).unwrap();
            assert_eq!(on.len(), 3, "{first} {second}");
        }
        let why = set(&[(Http, "127.0.0.1:1883")]).unwrap_err();
        assert!(why.contains("`mqtt` on") && why.contains("`http` on"), "{why}");
    }
}
