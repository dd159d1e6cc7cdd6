//! TLS for every frontend: certificates from files, read again on demand while connections live.
//!
//! **Invariants**
//! - Whatever is wrong with a file is found before any of it is used; the certificates in use stay until then.
//! - A connection keeps what it was opened with.
//!
//! Only TLS 1.2 and 1.3 are spoken, with the cipher suites rustls considers safe; there is nothing to weaken.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::{ClientCertificates, TlsFiles};

/// What is spoken inside; named to the client by ALPN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Application {
    /// MQTT.
    Mqtt,
    /// MQTT over WebSocket.
    WebSocket,
    /// HTTP/1.1 and HTTP/2.
    Http,
}

impl Application {
    /// What is answered to a client that asks; one that does not ask is served as well.
    const fn protocols(self) -> &'static [&'static [u8]] {
        match self {
            Self::Mqtt => &[b"mqtt"],
            Self::WebSocket => &[b"http/1.1"],
            Self::Http => &[b"h2", b"http/1.1"],
        }
    }
}

/// Why certificates cannot be used.
#[derive(Debug)]
pub enum TlsError {
    /// A file cannot be read.
    Unreadable {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// What the system or the PEM reader says.
        cause: pem::Error,
    },
    /// A file has nothing of what is wanted.
    Empty {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// What it should have.
        wanted: &'static str,
    },
    /// Certificate and key are not a pair.
    Mismatch {
        /// File of the certificate.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
    },
    /// A certificate or key is of no use.
    Unusable {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        cause: rustls::Error,
    },
    /// The authorities for client certificates are of no use.
    Authorities {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: VerifierBuilderError,
    },
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { setting, file, cause } => match cause {
                pem::Error::Io(cause) => write!(f, "cannot read `{}` ({setting}): {cause}", file.display()),
                cause => write!(f, "`{}` ({setting}) is not a PEM file: {cause}", file.display()),
            },
            Self::Empty { setting, file, wanted } => {
                write!(f, "`{}` ({setting}) has {wanted}", file.display())
            }
            Self::Mismatch { certificate, key } => write!(
                f,
                "the key `{}` (tls.key) does not belong to the first certificate of `{}` (tls.cert); the certificate of \
                 the server comes first, those that vouch for it behind it",
                key.display(),
                certificate.display()
            ),
            Self::Unusable { setting, file, cause } => {
                write!(f, "`{}` ({setting}) cannot be used: {cause}", file.display())
            }
            Self::Authorities { file, cause } => {
                write!(f, "`{}` (tls.client_ca) cannot be used: {cause}", file.display())
            }
        }
    }
}

impl std::error::Error for TlsError {}

/// What new connections are opened with, one for each kind of application.
struct Current {
    mqtt: Arc<ServerConfig>,
    websocket: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
}

/// The certificates of the server, for all its listeners.
pub struct Tls {
    files: TlsFiles,
    current: RwLock<Current>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// The text names the file and says what is wrong with it.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let current = RwLock::new(read(&files)?);
        Ok(Self { files, current })
    }

    /// Reads the files again; connections opened from now on use what is in them.
    ///
    /// # Errors
    /// As [`Tls::load`]; then nothing has changed.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = read(&self.files)?;
        *self.current.write() = new;
        Ok(())
    }

    /// The server's side of a handshake. How long it may take is the caller's business.
    ///
    /// # Errors
    /// If the stream fails or the client is refused; the client was told why.
    pub async fn accept<S>(&self, application: Application, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = {
            let current = self.current.read();
            Arc::clone(match application {
                Application::Mqtt => &current.mqtt,
                Application::WebSocket => &current.websocket,
                Application::Http => &current.http,
            })
        };
        TlsAcceptor::from(config).accept(stream).await
    }
}

fn read(files: &TlsFiles) -> Result<Current, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let identity = read_identity(files, &provider)?;
    let verifier = match &files.client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(file) => {
            let unusable = |cause| TlsError::Authorities {
                file: file.clone(),
                cause,
            };
            let mut roots = RootCertStore::empty();
            for certificate in read_certificates("tls.client_ca", file)? {
                roots.add(certificate).map_err(|cause| TlsError::Unusable {
                    setting: "tls.client_ca",
                    file: file.clone(),
                    cause,
                })?;
            }
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            match files.client_certificates {
                ClientCertificates::Required => builder.build().map_err(unusable)?,
                ClientCertificates::Optional => builder.allow_unauthenticated().build().map_err(unusable)?,
            }
        }
    };
    let identity = Arc::new(rustls::sign::SingleCertAndKey::from(identity));
    let config = |application: Application| -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|cause| TlsError::Unusable {
                setting: "tls.cert",
                file: files.certificate.clone(),
                cause,
            })?;
        let mut config = builder
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_cert_resolver(identity.clone());
        config.alpn_protocols = application.protocols().iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    };
    Ok(Current {
        mqtt: config(Application::Mqtt)?,
        websocket: config(Application::WebSocket)?,
        http: config(Application::Http)?,
    })
}

/// The server's certificate with those that vouch for it, and its key.
fn read_identity(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = read_certificates("tls.cert", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|cause| match cause {
        pem::Error::NoItemsFound => TlsError::Empty {
            setting: "tls.key",
            file: files.key.clone(),
            wanted: "no private key in it, or one that needs a password; `openssl pkey -in FILE -out NEW` writes one \
                     without",
        },
        cause => TlsError::Unreadable {
            setting: "tls.key",
            file: files.key.clone(),
            cause,
        },
    })?;
    let unusable = |setting, file: &Path, cause| TlsError::Unusable {
        setting,
        file: file.to_owned(),
        cause,
    };
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|cause| unusable("tls.key", &files.key, cause))?;
    let identity = CertifiedKey::new(chain, key);
    match identity.keys_match() {
        // A key that cannot tell its public half is tried by the first client.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(identity),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::Mismatch {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
        }),
        Err(cause) => Err(unusable("tls.cert", &files.certificate, cause)),
    }
}

fn read_certificates(setting: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |cause| TlsError::Unreadable {
        setting,
        file: file.to_owned(),
        cause,
    };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(unreadable)?.collect();
    let certificates = certificates.map_err(unreadable)?;
    if certificates.is_empty() {
        return Err(TlsError::Empty {
            setting,
            file: file.to_owned(),
            wanted: "no certificate in it; it must be PEM, with `-----BEGIN CERTIFICATE-----`",
        });
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    fn files(certificate: &str, key: &str) -> (tempfile::TempDir, TlsFiles) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("cert.pem"), certificate).unwrap();
        std::fs::write(path("key.pem"), key).unwrap();
        let files = TlsFiles {
            certificate: path("cert.pem"),
            key: path("key.pem"),
            client_ca: None,
            client_certificates: ClientCertificates::Required,
        };
        (dir, files)
    }

    fn pair() -> (String, String) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    fn why(files: TlsFiles) -> String {
        Tls::load(files).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn an_error_names_the_file_and_what_is_wrong_with_it() {
        let (certificate, key) = pair();
        let (_, other_key) = pair();
        let (_dir, good) = files(&certificate, &key);
        assert!(Tls::load(good.clone()).is_ok());

        let missing = TlsFiles {
            key: "/nowhere/key.pem".into(),
            ..good.clone()
        };
        let text = why(missing);
        assert!(
            text.contains("`/nowhere/key.pem` (tls.key)") && text.contains("No such file"),
            "{text}"
        );

        let (_dir, swapped) = files(&key, &certificate);
        let text = why(swapped);
        assert!(text.contains("cert.pem` (tls.cert) has no certificate"), "{text}");

        let (_dir, no_key) = files(&certificate, &certificate);
        let text = why(no_key);
        assert!(text.contains("key.pem` (tls.key) has no private key"), "{text}");

        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let (_dir, encrypted) = files(&certificate, &encrypted);
        assert!(why(encrypted).contains("password"));

        let (_dir, mismatch) = files(&certificate, &other_key);
        assert!(why(mismatch).contains("does not belong to the first certificate"));

        let (_dir, broken) = files("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", &key);
        assert!(why(broken).contains("(tls.cert) is not a PEM file"));

        let (_dir, nonsense) = files("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key);
        assert!(why(nonsense).contains("(tls.cert) cannot be used"));

        let authorities = TlsFiles {
            client_ca: Some(good.key.clone()),
            ..good
        };
        let text = why(authorities);
        assert!(text.contains("(tls.client_ca) has no certificate"), "{text}");
    }

    #[test]
    fn a_failed_reload_changes_nothing() {
        let (certificate, key) = pair();
        let (dir, files) = files(&certificate, &key);
        let tls = Tls::load(files).unwrap();
        let before = Arc::as_ptr(&tls.current.read().mqtt);
        std::fs::write(dir.path().join("key.pem"), pair().1).unwrap();
        assert!(tls.reload().is_err());
        assert_eq!(Arc::as_ptr(&tls.current.read().mqtt), before);
        std::fs::write(dir.path().join("key.pem"), &key).unwrap();
        tls.reload().unwrap();
        assert_ne!(Arc::as_ptr(&tls.current.read().mqtt), before);
    }
}
