package sqlitestore

// SetDurability replaces what is executed before each write, to show that tests
// notice.
func (s *Store) SetDurability(pragma string) { s.durability = pragma }
