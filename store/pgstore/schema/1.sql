-- Names are bytea, not text: they compare byte by byte, whatever the collation
-- of the database is, and may hold a zero byte.

-- One row is one session. The document is the session; the other columns are
-- taken from it, so that it can be found.
CREATE TABLE curfew_sessions (
    id       bytea   NOT NULL PRIMARY KEY,
    revision bigint  NOT NULL,
    ended    boolean NOT NULL,
    terms    bytea[] NOT NULL, -- its rows in curfew_terms
    due      bigint,           -- microseconds since 1970; NULL: never
    claimed  bigint,           -- until when a sweeper has it, as due; NULL: none has
    document bytea   NOT NULL
) WITH (fillfactor = 80); -- a refresh, which changes nothing that is indexed, finds room on the row's page

CREATE INDEX curfew_sessions_due ON curfew_sessions (due, id) WHERE due IS NOT NULL;

-- What sessions are found by: "*" for all, or a letter, a colon and a name: s the
-- subject, a an account, c a client, k the kind. Of a long name it is a letter, #
-- and the SHA-256.
CREATE TABLE curfew_terms (
    term  bytea   NOT NULL,
    ended boolean NOT NULL,
    id    bytea   NOT NULL,
    PRIMARY KEY (term, ended, id)
);

-- One row is one version of a document.
CREATE TABLE curfew_documents (
    key     bytea  NOT NULL,
    version bigint NOT NULL,
    body    bytea  NOT NULL,
    at      text   NOT NULL, -- RFC 3339 in UTC; empty: the zero time
    by      bytea  NOT NULL,
    message bytea  NOT NULL,
    PRIMARY KEY (key, version)
);
