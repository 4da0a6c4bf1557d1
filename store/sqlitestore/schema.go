package sqlitestore

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
)

// The files are numbered from 1 and never changed once they were released: each
// takes the schema from the version before it to its own.
//
//go:embed schema/*.sql
var schemaFiles embed.FS

// schemaVersion is the number of the last file.
const schemaVersion = 1

// migrate brings the schema to schemaVersion. The database's writer lock keeps
// several processes from doing so at once.
func (s *Store) migrate(ctx context.Context) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		// PRAGMA user_version is the caller's.
		if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS curfew_schema (version INTEGER NOT NULL) STRICT`); err != nil {
			return err
		}
		var version int
		if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(version), 0) FROM curfew_schema`).Scan(&version); err != nil {
			return err
		}
		if version > schemaVersion {
			return refuse("the database has schema version %d, made by a newer version of Curfew; this one knows up to %d", version, schemaVersion)
		}
		for version < schemaVersion {
			version++
			statements, err := schemaFiles.ReadFile(fmt.Sprintf("schema/%d.sql", version))
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, string(statements)); err != nil {
				return fmt.Errorf("schema version %d: %w", version, err)
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO curfew_schema (version) VALUES (?1)`, version); err != nil {
				return err
			}
		}
		return nil
	})
}
