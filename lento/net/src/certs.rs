//! Keys and certificates: the cluster's authority, and the hosts' certificates that it issues.

use crate::IdentityError;
use protocol::{ClusterId, HostId, HostName};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};
use std::path::Path;
use time::{Duration, OffsetDateTime};

/// How long the authority's and the hosts' certificates are good. Hosts' are not renewed, so as long.
const LIFE_DAYS: i64 = 20 * 365;
/// Certificates are good from this long before they are made, so that hosts' clocks need not agree.
const BACKDATED_DAYS: i64 = 2;

fn failed(why: impl ToString) -> IdentityError {
    IdentityError::Certificate(why.to_string())
}

/// Bytes from the system's secure source.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut out = [0; N];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut out)
        .map_err(|_| failed("the system gives no random numbers"))?;
    Ok(out)
}

/// A new key, ECDSA P-256.
pub(crate) fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)
}

/// The DNS name in the certificate of `host`, by which its peers know it.
pub(crate) fn dns_name(host: HostId, cluster: ClusterId) -> String {
    format!("h{host}.{cluster}.intermezzo")
}

/// Reads what [`dns_name`] wrote.
pub(crate) fn parse_dns_name(name: &str) -> Option<(HostId, ClusterId)> {
    let mut labels = name.split('.');
    let host = labels.next()?.strip_prefix('h')?.parse().ok()?;
    let cluster = labels.next()?.parse().ok()?;
    (labels.next() == Some("intermezzo") && labels.next().is_none()).then_some((host, cluster))
}

/// Which host of which cluster a certificate is for. The certificate is not verified here.
pub(crate) fn subject(certificate: &CertificateDer<'_>) -> Option<(HostId, ClusterId)> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut names = parsed.valid_dns_names();
    let subject = parse_dns_name(names.next()?)?;
    names.next().is_none().then_some(subject)
}

/// What a ticket says of the authority's certificate: the BLAKE3 of its DER.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    *blake3::hash(certificate).as_bytes()
}

/// Reads the one certificate of a PEM file.
pub(crate) fn from_pem(path: &Path, pem: &[u8]) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(pem).map_err(|why| IdentityError::damaged(path, format!("{why:?}")))
}

/// PEM of a certificate.
pub(crate) fn to_pem(certificate: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let encoded = STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for at in (0..encoded.len()).step_by(64) {
        out.push_str(&encoded[at..encoded.len().min(at + 64)]);
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

fn dated(params: &mut CertificateParams) -> Result<(), IdentityError> {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(BACKDATED_DAYS);
    params.not_after = now + Duration::days(LIFE_DAYS);
    params.serial_number = Some(SerialNumber::from_slice(&random::<16>()?));
    Ok(())
}

/// Makes a cluster's authority: its certificate, signed by itself.
pub(crate) fn new_authority(cluster: ClusterId, key: &KeyPair) -> Result<CertificateDer<'static>, IdentityError> {
    let mut params = CertificateParams::default();
    dated(&mut params)?;
    params.distinguished_name.push(DnType::CommonName, format!("InterMezzo cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key).map_err(failed)?.der().clone())
}

/// The authority's certificate with its key, able to issue.
pub(crate) struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// From the certificate and the key's PEM, which was read from `path`.
    pub(crate) fn new(certificate: &CertificateDer<'_>, path: &Path, key: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pem(key).map_err(|why| IdentityError::damaged(path, why))?;
        Issuer::from_ca_cert_der(certificate, key).map(Self).map_err(failed)
    }

    /// A certificate for `host`. Nothing but the key is taken from the one who asks.
    pub(crate) fn issue(
        &self,
        host: HostId,
        name: &HostName,
        cluster: ClusterId,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let mut params = CertificateParams::new([dns_name(host, cluster)]).map_err(failed)?;
        dated(&mut params)?;
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.0).map_err(failed)?.der().clone())
    }
}

/// A request to certify `key`.
pub(crate) fn request(key: &KeyPair) -> Result<Vec<u8>, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.serialize_request(key).map_err(failed)?.der().to_vec())
}

/// The key that a request asks to certify; its owner has proved to have the private part.
pub(crate) fn requested_key(request: &[u8]) -> Result<rcgen::PublicKey, IdentityError> {
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
        .map(|csr| csr.public_key)
        .map_err(failed)
}
