-- One row is one session. The document is the session; the other columns are
-- taken from it, so that it can be found.
CREATE TABLE curfew_sessions (
    id       TEXT    NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL,
    issuer   TEXT    NOT NULL,
    subject  TEXT    NOT NULL,
    ended    INTEGER NOT NULL,           -- 0 or 1
    terms    TEXT    NOT NULL,           -- its rows in curfew_terms, as a JSON array
    due      INTEGER,                    -- microseconds since 1970; NULL: never
    claimed  INTEGER NOT NULL DEFAULT 0, -- until when a sweeper has it, as due
    document BLOB    NOT NULL
) STRICT;

CREATE INDEX curfew_sessions_subject ON curfew_sessions (issuer, subject, ended, id);
CREATE INDEX curfew_sessions_ended ON curfew_sessions (ended, id);
CREATE INDEX curfew_sessions_due ON curfew_sessions (due, id, claimed) WHERE due IS NOT NULL;

-- What sessions are found by: "account:" and an account of the session,
-- "client:" and a client, "kind:" and the kind.
CREATE TABLE curfew_terms (
    term  TEXT    NOT NULL,
    ended INTEGER NOT NULL,
    id    TEXT    NOT NULL,
    PRIMARY KEY (term, ended, id)
) STRICT, WITHOUT ROWID;

-- One row is one version of a document.
CREATE TABLE curfew_documents (
    key     TEXT    NOT NULL,
    version INTEGER NOT NULL,
    body    BLOB    NOT NULL,
    at      TEXT    NOT NULL,            -- RFC 3339 in UTC; empty: the zero time
    by      TEXT    NOT NULL,
    message TEXT    NOT NULL,
    PRIMARY KEY (key, version)
) STRICT;
