-- Times are seconds since 1970. Texts from people are checked before they come here, and are only ever bound.
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    display TEXT NOT NULL,
    password TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT;

-- Names and display names of accounts, as they look: no two may be taken for one another.
CREATE TABLE looks (
    skeleton TEXT PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE
) STRICT;

-- A session is known by the hash of what its cookie holds.
CREATE TABLE sessions (
    hash BLOB PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    created INTEGER NOT NULL,
    used INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_account ON sessions (account);

CREATE TABLE groups (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    skeleton TEXT NOT NULL UNIQUE,
    prefix TEXT NOT NULL,
    lease TEXT NOT NULL CHECK (lease IN ('dhcp', 'assigned')),
    lease_s INTEGER NOT NULL,
    certificate_s INTEGER NOT NULL,
    bootstrap TEXT NOT NULL,
    sealed_only INTEGER NOT NULL,
    authority BLOB NOT NULL,
    sealed_key BLOB NOT NULL,
    sealed_secret BLOB NOT NULL,
    document_number INTEGER NOT NULL,
    document BLOB NOT NULL,
    list_number INTEGER NOT NULL,
    list BLOB NOT NULL,
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    group_id INTEGER NOT NULL REFERENCES groups ON DELETE CASCADE,
    account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('owner', 'manager', 'member')),
    state TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'denied', 'removed')),
    since INTEGER NOT NULL,
    PRIMARY KEY (group_id, account)
) STRICT;
CREATE INDEX users_account ON users (account);

CREATE TABLE nodes (
    id INTEGER PRIMARY KEY,
    group_id INTEGER NOT NULL REFERENCES groups ON DELETE CASCADE,
    key BLOB NOT NULL,
    address TEXT NOT NULL,
    name TEXT NOT NULL,
    skeleton TEXT NOT NULL,
    account INTEGER REFERENCES accounts ON DELETE SET NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'denied', 'removed')),
    tags TEXT NOT NULL,
    virtual_address TEXT,
    since INTEGER NOT NULL,
    seen INTEGER NOT NULL DEFAULT 0,
    report TEXT NOT NULL DEFAULT '{}',
    UNIQUE (group_id, key)
) STRICT;
CREATE UNIQUE INDEX nodes_name ON nodes (group_id, skeleton) WHERE state = 'approved';
CREATE UNIQUE INDEX nodes_virtual ON nodes (group_id, virtual_address) WHERE state = 'approved';
CREATE INDEX nodes_listed ON nodes (group_id, state, name);

CREATE TABLE tokens (
    id INTEGER PRIMARY KEY,
    group_id INTEGER NOT NULL REFERENCES groups ON DELETE CASCADE,
    hash BLOB NOT NULL UNIQUE,
    account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    tags TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    used INTEGER,
    node INTEGER REFERENCES nodes ON DELETE SET NULL
) STRICT;

CREATE TABLE certificates (
    serial BLOB PRIMARY KEY,
    group_id INTEGER NOT NULL REFERENCES groups ON DELETE CASCADE,
    node INTEGER NOT NULL REFERENCES nodes ON DELETE CASCADE,
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    revoked INTEGER,
    der BLOB NOT NULL
) STRICT;
CREATE INDEX certificates_node ON certificates (node, not_after);
CREATE INDEX certificates_revoked ON certificates (group_id, not_after) WHERE revoked IS NOT NULL;

CREATE TABLE rules (
    id INTEGER PRIMARY KEY,
    group_id INTEGER NOT NULL REFERENCES groups ON DELETE CASCADE,
    source TEXT NOT NULL,
    target TEXT NOT NULL,
    protocol TEXT NOT NULL,
    ports TEXT NOT NULL
) STRICT;
CREATE INDEX rules_group ON rules (group_id, id);

CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    group_id INTEGER REFERENCES groups ON DELETE CASCADE,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL
) STRICT;
CREATE INDEX audit_group ON audit (group_id, id);
