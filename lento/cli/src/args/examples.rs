//! The examples at the end of each `--help`. A test parses every line that begins with `lento`.

pub(super) const LENTO: &str = "\
Example, two servers:
  On a:
    lento init --name a --listen 10.0.0.1:7400
    lento daemon
    lento fileset create web --store /srv/web
    lento invite --fileset web
  On b, with the ticket that a printed:
    lento join TICKET --name b --listen 10.0.0.2:7400
    lento daemon
    lento replicate web --store /srv/web

Exit codes: 0 done; 1 failed, or verify and fsck found something; 2 wrong usage; 3 the daemon is not running; \
124 the time given ran out.";

pub(super) const INIT: &str = "\
Makes this host's identity and keys, and the cluster's certificate authority. Run once, on the first host only.

Example:
  lento init --name a --listen 10.0.0.1:7400
  lento init --name a --listen 127.0.0.1:7400 --home /tmp/a";

pub(super) const DAEMON: &str = "\
Stays in the foreground and logs to standard error; tells systemd when it is ready. Mounts what was mounted before. \
SIGTERM ends it; mounts go on serving and logging while it is down.

Example:
  lento daemon
  lento daemon -v
  systemctl start lento";

pub(super) const FILESET: &str = "\
Example:
  lento fileset create web --store /srv/web
  lento fileset list
  lento fileset remove web";

pub(super) const FILESET_CREATE: &str = "\
The directory is adopted in place: its files stay where they are, nothing is copied. This host becomes the holder of the \
file set. From then on, use the mount, not the store behind it.

Example:
  lento fileset create web --store /srv/web
  lento fileset create home --store /data/home --mount /home
  lento fileset create web --store /srv/web --soft --timeout 10s";

pub(super) const FILESET_LIST: &str = "\
Example:
  lento fileset list
  lento fileset list --json | jq '.[].name'";

pub(super) const FILESET_REMOVE: &str = "\
Unmounts the file set, takes this host off it, and removes InterMezzo's own data from the directory. All files stay. \
It is refused, and nothing is changed, when another host would miss it: --force is for when that host is gone for good.

Example:
  lento fileset remove web
  lento fileset remove web --force
  lento fileset remove web --yes";

pub(super) const INVITE: &str = "\
The ticket holds this host's address, the fingerprint of the cluster's authority and a secret. It is for one host, once: a new \
one or one that is a member already. \
Send it by a way that others cannot read.

Example:
  lento invite --fileset web
  lento invite --fileset web --expires 10m
  lento invite --client --access ro --fileset web";

pub(super) const JOIN: &str = "\
The host that gave the ticket must be running and reachable. A host that is a member of the cluster keeps its name and \
address: the ticket gives it access to one more file set, while its daemon runs or not.

Example:
  lento join TICKET --name b --listen 10.0.0.2:7400
  lento join - --name b --listen 10.0.0.2:7400 < ticket
  lento join TICKET && lento replicate mail --store /srv/mail";

pub(super) const REPLICATE: &str = "\
Copies everything, with progress, then stays live: changes on either side reach the other as they happen. Ctrl-C leaves \
the copy going on in the daemon; `lento status` shows it.

Example:
  lento replicate web --store /srv/web
  lento replicate web --store /data/web --mount /srv/web";

pub(super) const STATUS: &str = "\
Lag is what a replica has not got yet: records of the log, bytes, and the age of the oldest.

Example:
  lento status
  lento status --json | jq '.filesets[] | {name, state}'";

pub(super) const WAIT: &str = "\
What is written after the command began is not waited for. Exits with 124 when the time is over.

Example:
  lento wait web
  lento wait web --timeout 30s && echo safe";

pub(super) const LOG: &str = "\
Each line: epoch and number, time, writer, user, operation, object, name.

Example:
  lento log web
  lento log web --follow
  lento log web --json | jq 'select(.op == \"rename\")'";

pub(super) const VERIFY: &str = "\
Reads and hashes every file on every connected host of the file set. Exits with 1 and a list if they differ, or if a host \
could not be compared. What changes meanwhile may be listed: compare when nobody writes.

Example:
  lento wait web && lento verify web
  lento verify web --json";

pub(super) const MOUNT: &str = "\
The mount comes back after a restart of the daemon or the host. A file set that is not stored on this host is mounted as a
client: names and contents come when they are used, and are kept in a cache below --home.

Example:
  lento mount web /srv/web
  lento mount web /mnt/web --cache-size 20G --soft --timeout 30s";

pub(super) const UMOUNT: &str = "\
It stays unmounted until `lento mount`. Changes from other hosts are applied to the store all the same.

Example:
  lento umount /srv/web
  lento umount web";

pub(super) const CACHE: &str = "\
A miss is a file or directory that a program had to wait for. Unsent are records of this host that its holder has not got.

Example:
  lento cache
  lento cache --json";

pub(super) const PIN: &str = "\
What is pinned is fetched now, stays whatever the bound of the cache, and is fetched anew as soon as it changes.

Example:
  lento pin /mnt/web/config --recursive
  lento pin --profile /etc/intermezzo/hoard";

pub(super) const UNPIN: &str = "\
Example:
  lento unpin /mnt/web/config --recursive";

pub(super) const PREFETCH: &str = "\
It may go again when room is needed: see `lento pin`.

Example:
  lento prefetch /mnt/web/docs";

pub(super) const EVICT: &str = "\
What is open, pinned, or not yet at the holder stays. Nothing is changed in the file set.

Example:
  lento evict /mnt/web/videos";

pub(super) const PERMIT: &str = "\
One host at a time may modify a file set; it keeps that right, the permit, until another host wants it. A client that has it \
and is away loses it after its lease, once others want to write.

Example:
  lento permit release web
  lento permit break web";

pub(super) const PERMIT_RELEASE: &str = "\
Example:
  lento permit release web";

pub(super) const PERMIT_BREAK: &str = "\
Example:
  lento permit break web";

pub(super) const WHO: &str = "\
The permit and what is told of changes are of the whole file set. The holder knows all its hosts; another host knows the holder \
and itself.

Example:
  lento who /mnt/web/index.html
  lento who /srv/web --json";

pub(super) const FSCK: &str = "\
The database is an index over what is in the store: nothing is lost with it. Without --rebuild it is compared with
the store, while the file set stays in use; the exit code is 1 if they do not agree. `lento verify` compares hosts.

Example:
  lento fsck web
  lento fsck web --rebuild";

pub(super) const GENERATE: &str = "\
The directory is made if it does not exist.

Example:
  lento generate man /usr/local/share/man/man1
  lento generate completions /tmp/completions";
