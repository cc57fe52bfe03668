//! TLS 1.3 and nothing older, both ends certified by the cluster's authority, nothing resumed, nothing early.

use crate::{Identity, NetError, certs};
use protocol::{ClusterId, HostId};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, RootCertStore,
    ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerified, danger::ClientCertVerifier},
    version::TLS13,
};
use std::sync::Arc;

/// ring, with AES-128-GCM first: on machines with AES instructions it is the fastest.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn roots(authority: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned())?;
    Ok(Arc::new(roots))
}

fn tls(why: impl ToString) -> NetError {
    NetError::Tls(why.to_string())
}

/// For those who call: a certificate of the cluster, or none (then only a join is taken).
pub(crate) fn server(identity: &Identity) -> Result<Arc<ServerConfig>, NetError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&identity.authority).map_err(tls)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(tls)?;
    let verifier = Arc::new(ClusterVerifier { inner: verifier, cluster: identity.cluster });
    // The authority's certificate goes along for those who join: they know its fingerprint only.
    let chain = vec![identity.certificate.clone(), identity.authority.clone()];
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, identity.key.clone_key())
        .map_err(tls)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// For calling the cluster's hosts; which one is expected is said by [`server_name`].
pub(crate) fn client(identity: &Identity) -> Result<Arc<ClientConfig>, NetError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_root_certificates(roots(&identity.authority).map_err(tls)?)
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key.clone_key())
        .map_err(tls)?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// For joining: no certificate yet, and of the authority only the fingerprint is known.
pub(crate) fn joining(authority: [u8; 32], inviter: HostId) -> Result<Arc<ClientConfig>, NetError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedVerifier { authority, inviter, provider: provider() }))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name that the certificate of `host` must have.
pub(crate) fn server_name(host: HostId, cluster: ClusterId) -> Result<ServerName<'static>, NetError> {
    ServerName::try_from(certs::dns_name(host, cluster)).map_err(tls)
}

/// rustls's verification, and that the certificate names a host of this cluster.
#[derive(Debug)]
struct ClusterVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    cluster: ClusterId,
}

impl ClientCertVerifier for ClusterVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        match certs::subject(end_entity) {
            Some((_, cluster)) if cluster == self.cluster => Ok(verified),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Accepts the inviter whose authority has the ticket's fingerprint.
#[derive(Debug)]
struct PinnedVerifier {
    authority: [u8; 32],
    inviter: HostId,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| certs::fingerprint(certificate) == self.authority)
            .ok_or(CertificateError::UnknownIssuer)?;
        let name = match certs::subject(end_entity) {
            Some((host, cluster)) if host == self.inviter => {
                server_name(host, cluster).map_err(|why| Error::General(why.to_string()))?
            }
            _ => return Err(CertificateError::NotValidForName.into()),
        };
        WebPkiServerVerifier::builder_with_provider(roots(authority)?, self.provider.clone())
            .build()
            .map_err(|why| Error::General(why.to_string()))?
            .verify_server_cert(end_entity, &[], &name, ocsp_response, now)
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
