package redisstore

// Reads returns how many reads are under way, a pipeline being one, and how many wait
// for them.
func (s *Store) Reads() (underway, waiting int) {
	s.reads.mu.Lock()
	defer s.reads.mu.Unlock()
	return s.reads.underway, len(s.reads.waiting)
}
