//! Who this host is: its files, below the home directory, and what can be done with them.
//!
//! `identity.toml` (written last: without it there is no identity), `key.pem`, `cert.pem`, `ca.pem`, `cluster.json`,
//! and on the cluster's first host `ca-key.pem`. The directory is closed to others, and so is each file.

use crate::{
    IdentityError, Member, Ticket, TicketInfo,
    certs::{self, Authority},
    files,
    register::Register,
    ticket::unix_now,
};
use protocol::{ClusterId, Grant, HostId, HostName, Refusal, Reply};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// What `identity.toml` holds.
#[derive(Debug, Serialize, Deserialize)]
struct IdentityFile {
    host: u32,
    name: HostName,
    cluster: String,
    listen: String,
}

/// This host's identity, as kept in its home directory.
///
/// What other processes may change (members, tickets) is read anew each time; all methods may be called from any
/// thread, and by the daemon and the command line at once. They do file I/O, so not from an async task.
#[derive(Debug)]
pub struct Identity {
    home: PathBuf,
    /// This host's id.
    pub host: HostId,
    /// This host's name.
    pub name: HostName,
    /// The cluster.
    pub cluster: ClusterId,
    /// The address on which it listens, `address:port`.
    pub listen: String,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) authority: CertificateDer<'static>,
}

impl Identity {
    /// Makes the first host of a new cluster: the authority, and this host's own certificate.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] if the home has an identity; [`IdentityError::Listen`] if `listen` is no address.
    pub fn init(home: &Path, name: HostName, listen: String) -> Result<Self, IdentityError> {
        check_address(&listen)?;
        files::private_dir(home)?;
        let lock = files::lock(home)?;
        refuse_existing(home)?;
        let cluster = ClusterId::from_bytes(certs::random()?);
        let host = HostId::new(1).map_err(|why| IdentityError::Certificate(why.to_string()))?;
        let authority_key = certs::new_key()?;
        let authority = certs::new_authority(cluster, &authority_key)?;
        let key = certs::new_key()?;
        let key_path = home.join("ca-key.pem");
        let issuer = Authority::new(&authority, &key_path, &authority_key.serialize_pem())?;
        let certificate = issuer.issue(host, &name, cluster, &key)?;
        files::write(&key_path, authority_key.serialize_pem().as_bytes())?;
        files::write(&home.join("key.pem"), key.serialize_pem().as_bytes())?;
        let member = Member { host, name: name.clone(), address: listen.clone() };
        let register = Register { next_host: 2, members: vec![member], tickets: Vec::new() };
        store(home, host, name, cluster, listen, &certificate, &authority, &register)?;
        drop(lock);
        Self::load(home)
    }

    /// Reads the identity in `home`.
    ///
    /// # Errors
    /// [`IdentityError::Missing`] if there is none.
    pub fn load(home: &Path) -> Result<Self, IdentityError> {
        let path = home.join("identity.toml");
        if !path.exists() {
            return Err(IdentityError::Missing(home.to_owned()));
        }
        let file: IdentityFile =
            toml::from_str(&files::read_text(&path)?).map_err(|why| IdentityError::damaged(&path, why))?;
        let host = HostId::new(file.host).map_err(|why| IdentityError::damaged(&path, why))?;
        let cluster = file.cluster.parse().map_err(|why| IdentityError::damaged(&path, why))?;
        let certificate_path = home.join("cert.pem");
        let certificate = certs::from_pem(&certificate_path, &files::read(&certificate_path)?)?;
        if certs::subject(&certificate) != Some((host, cluster)) {
            return Err(IdentityError::damaged(&certificate_path, "it is not the certificate of this host"));
        }
        let authority_path = home.join("ca.pem");
        let authority = certs::from_pem(&authority_path, &files::read(&authority_path)?)?;
        let key_path = home.join("key.pem");
        let key = PrivateKeyDer::from_pem_slice(&files::read(&key_path)?)
            .map_err(|why| IdentityError::damaged(&key_path, format!("{why:?}")))?;
        Register::load(home)?;
        Ok(Self {
            home: home.to_owned(),
            host,
            name: file.name,
            cluster,
            listen: file.listen,
            key,
            certificate,
            authority,
        })
    }

    /// The home directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The hosts that this one knows, itself among them.
    pub fn members(&self) -> Result<Vec<Member>, IdentityError> {
        Ok(Register::load(&self.home)?.members)
    }

    /// The host with that id, if this one knows it.
    pub fn member(&self, host: HostId) -> Result<Option<Member>, IdentityError> {
        Ok(self.members()?.into_iter().find(|member| member.host == host))
    }

    /// Notes a host, or another address of a known one.
    pub fn put_member(&self, member: Member) -> Result<(), IdentityError> {
        Register::update(&self.home, |register| {
            register.put_member(member);
            Ok(())
        })
    }

    /// The tickets that were given and not yet forgotten.
    pub fn tickets(&self) -> Result<Vec<TicketInfo>, IdentityError> {
        Ok(Register::load(&self.home)?.tickets)
    }

    /// Makes a ticket that admits one host within `life`, and lets it replicate `grant` if one is named.
    ///
    /// # Errors
    /// [`IdentityError::NotAuthority`] on any but the cluster's first host.
    pub fn invite(&self, grant: Option<Grant>, life: Duration) -> Result<Ticket, IdentityError> {
        self.issuer()?;
        let ticket = Ticket {
            inviter: self.host,
            address: self.listen.clone(),
            expires: unix_now().saturating_add(life.as_secs()),
            authority: certs::fingerprint(&self.authority),
            secret: certs::random()?,
        };
        Register::update(&self.home, |register| {
            register.add_ticket(Ticket::secret_hash(&ticket.secret), ticket.expires, grant);
            Ok(())
        })?;
        Ok(ticket)
    }

    /// Redeems a ticket for the host that asks with this secret and certificate signing request. The outer error is
    /// this host's; a refusal is the asker's. The ticket is used once the answer is on disk, not before.
    pub(crate) fn redeem(
        &self,
        name: HostName,
        address: String,
        secret: &[u8],
        csr: &[u8],
    ) -> Result<Result<(Member, Reply), Refusal>, IdentityError> {
        let key = match certs::requested_key(csr) {
            Ok(key) => key,
            Err(why) => return Ok(Err(Refusal::Failed(why.to_string()))),
        };
        if check_address(&address).is_err() {
            return Ok(Err(Refusal::Failed(format!("{address:?} is not an address to listen on"))));
        }
        let issuer = self.issuer()?;
        let key_hash = blake3::hash(rcgen::PublicKeyData::der_bytes(&key)).to_hex().to_string();
        let _lock = files::lock(&self.home)?;
        let mut register = Register::load(&self.home)?;
        let (host, grant) = match register.redeem(&Ticket::secret_hash(secret), &key_hash, &name, &address) {
            Ok(admitted) => admitted,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let certificate = issuer.issue(host, &name, self.cluster, &key)?;
        register.store(&self.home)?;
        let reply = Reply::Joined {
            host,
            certificate: certificate.to_vec(),
            authority: self.authority.to_vec(),
            inviter: (self.host, self.name.clone(), self.listen.clone()),
            grant,
        };
        Ok(Ok((Member { host, name, address }, reply)))
    }

    /// Redeems a ticket for `host`, a member, whose certificate was verified. The results are as of [`Self::redeem`].
    pub(crate) fn redeem_for_member(
        &self,
        host: HostId,
        secret: &[u8],
    ) -> Result<Result<(Member, Reply), Refusal>, IdentityError> {
        let _lock = files::lock(&self.home)?;
        let mut register = Register::load(&self.home)?;
        let (member, grant) = match register.redeem_for_member(&Ticket::secret_hash(secret), host) {
            Ok(redeemed) => redeemed,
            Err(refusal) => return Ok(Err(refusal)),
        };
        register.store(&self.home)?;
        let inviter = (self.host, self.name.clone(), self.listen.clone());
        Ok(Ok((member, Reply::Redeemed { inviter, grant })))
    }

    fn issuer(&self) -> Result<Authority, IdentityError> {
        let path = self.home.join("ca-key.pem");
        if !path.exists() {
            return Err(IdentityError::NotAuthority);
        }
        Authority::new(&self.authority, &path, &files::read_text(&path)?)
    }
}

/// Whether `address` is `host:port`, and one that can be called: others are told it, so not the unspecified one.
pub(crate) fn check_address(address: &str) -> Result<(), IdentityError> {
    let fits = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
    let parsed = address.parse::<SocketAddr>().ok();
    let unspecified = parsed.is_some_and(|address| address.ip().is_unspecified());
    // Of a host that nobody calls.
    let any_port = parsed.is_some_and(|address| address.ip().is_loopback() && address.port() == 0);
    if (fits || any_port) && !unspecified && address.len() <= 255 && !address.contains(char::is_whitespace) {
        Ok(())
    } else {
        Err(IdentityError::Listen(address.to_owned()))
    }
}

/// An identity is never overwritten.
pub(crate) fn refuse_existing(home: &Path) -> Result<(), IdentityError> {
    match Identity::load(home) {
        Err(IdentityError::Missing(_)) => Ok(()),
        Err(why) => Err(why),
        Ok(found) => {
            Err(IdentityError::Exists { home: home.to_owned(), host: found.host, name: found.name.to_string() })
        }
    }
}

/// Writes what an identity consists of, less its key, the file that makes it one last.
#[allow(clippy::too_many_arguments)]
pub(crate) fn store(
    home: &Path,
    host: HostId,
    name: HostName,
    cluster: ClusterId,
    listen: String,
    certificate: &[u8],
    authority: &[u8],
    register: &Register,
) -> Result<(), IdentityError> {
    files::write(&home.join("cert.pem"), certs::to_pem(certificate).as_bytes())?;
    files::write(&home.join("ca.pem"), certs::to_pem(authority).as_bytes())?;
    register.store(home)?;
    let path = home.join("identity.toml");
    let file = IdentityFile { host: host.get(), name, cluster: cluster.to_string(), listen };
    let text = toml::to_string(&file).map_err(|why| IdentityError::damaged(&path, why))?;
    files::write(&path, text.as_bytes())
}
