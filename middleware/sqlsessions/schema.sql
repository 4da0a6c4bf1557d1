CREATE TABLE IF NOT EXISTS curfew_rp_sessions (
	id      TEXT   NOT NULL PRIMARY KEY,
	entry1  TEXT   NOT NULL, -- of Index; empty: none
	entry2  TEXT   NOT NULL,
	data    TEXT   NOT NULL, -- sealed
	version BIGINT NOT NULL,
	expires BIGINT NOT NULL  -- microseconds since 1970, as all times here
);
CREATE INDEX IF NOT EXISTS curfew_rp_sessions_entry1 ON curfew_rp_sessions (entry1);
CREATE INDEX IF NOT EXISTS curfew_rp_sessions_entry2 ON curfew_rp_sessions (entry2);
CREATE INDEX IF NOT EXISTS curfew_rp_sessions_expires ON curfew_rp_sessions (expires);
CREATE TABLE IF NOT EXISTS curfew_rp_marks (
	name   TEXT   NOT NULL PRIMARY KEY,
	marked BIGINT NOT NULL,
	until  BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS curfew_rp_marks_until ON curfew_rp_marks (until);
