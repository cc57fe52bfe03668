//! A peer that does what the test says, not what the protocol says.

use super::{Host, soon};
use protocol::{Act, HostId, Message, PACKET_HEADER_BYTES, Packet, PacketKind, version};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate and its key.
pub type Certified = (CertificateDer<'static>, PrivateKeyDer<'static>);

pub fn authority_of(host: &Host) -> Issuer<'static, KeyPair> {
    let read = |name| std::fs::read_to_string(host.home.path().join(name)).expect("the first host has it");
    let key = KeyPair::from_pem(&read("ca-key.pem")).expect("a key");
    Issuer::from_ca_cert_pem(&read("ca.pem"), key).expect("a certificate")
}

/// What a good certificate of host `id` has, as the authority issues it.
pub fn params(host: &Host, id: u32) -> CertificateParams {
    let mut params = CertificateParams::new([format!("h{id}.{}.intermezzo", host.identity.cluster)]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, "mallory");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

pub fn issue(params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Certified {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let certificate = params.signed_by(&key, issuer).expect("a certificate").der().clone();
    (certificate, PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key"))
}

/// A TLS connection to `host`, whose authority is trusted. In TLS 1.3 it seems to succeed even if the server is about
/// to refuse the certificate.
pub struct Raw(pub TlsStream<TcpStream>);

impl Raw {
    pub async fn connect(host: &Host, certified: Option<Certified>) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        let pem = std::fs::read(host.home.path().join("ca.pem")).expect("the authority's certificate");
        roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("a certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots);
        let config = match certified {
            Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).expect("they fit"),
            None => config.with_no_client_auth(),
        };
        let name = format!("h{}.{}.intermezzo", host.id(), host.identity.cluster);
        let tcp = TcpStream::connect(&host.identity.listen).await?;
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(ServerName::try_from(name).expect("a name"), tcp).await.map(Self)
    }

    /// As host `id`, with a good certificate.
    pub async fn certified(host: &Host, id: u32) -> Self {
        let certified = issue(&params(host, id), &authority_of(host));
        Self::connect(host, Some(certified)).await.expect("a good certificate")
    }

    pub async fn send(&mut self, kind: PacketKind, act: Act, body: Vec<u8>) {
        let packet = Packet { kind, act, body };
        // The server may have closed already, which is what the test is about.
        let _ = self.0.write_all(&packet.header().expect("short enough")).await;
        let _ = self.0.write_all(&packet.body).await;
        let _ = self.0.flush().await;
    }

    pub async fn hello(&mut self, host: HostId) {
        let hello = Message::Hello { versions: version::WIRE, host, filesets: Vec::new() };
        self.send(PacketKind::Message, Act::default(), hello.to_body().expect("short enough")).await;
    }

    pub async fn receive(&mut self) -> io::Result<Packet> {
        let mut header = [0; PACKET_HEADER_BYTES];
        soon("a packet", self.0.read_exact(&mut header)).await?;
        let (mut packet, len) = Packet::parse_header(&header).expect("the network sends good packets");
        packet.body = vec![0; len];
        soon("a body", self.0.read_exact(&mut packet.body)).await?;
        Ok(packet)
    }

    /// Waits until the server closes the connection.
    pub async fn closed(&mut self) {
        let mut rest = Vec::new();
        let _ = soon("the end of the connection", self.0.read_to_end(&mut rest)).await;
    }
}
