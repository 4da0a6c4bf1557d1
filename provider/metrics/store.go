package metrics

import (
	"context"
	"time"

	"github.com/curfew-oidc/curfew/internal/outcome"
	"github.com/curfew-oidc/curfew/store"
)

// Store returns s, measured: each call is one call of s, and its duration and outcome are counted.
// The gauges are read from s too, so call Store once; after several calls the last store is read.
// For nil it returns nil.
func (m *Metrics) Store(s store.Store) store.Store {
	if s == nil {
		return nil
	}
	measured := &measuredStore{inner: s, m: m}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store, m.last = measured, reading{}
	return measured
}

// A measuredStore measures another one. It embeds nothing, so that no method is
// forgotten.
type measuredStore struct {
	inner store.Store
	m     *Metrics
}

func (s *measuredStore) Get(ctx context.Context, id string) (store.Session, error) {
	began := s.m.cfg.Now()
	session, err := s.inner.Get(ctx, id)
	s.m.called(opGet, began, outcome.Of(err))
	return session, err
}

func (s *measuredStore) Create(ctx context.Context, session store.Session, max int) error {
	began := s.m.cfg.Now()
	err := s.inner.Create(ctx, session, max)
	s.m.called(opCreate, began, outcome.Of(err))
	return err
}

func (s *measuredStore) Update(ctx context.Context, session store.Session) (int64, error) {
	began := s.m.cfg.Now()
	revision, err := s.inner.Update(ctx, session)
	s.m.called(opUpdate, began, outcome.Of(err))
	return revision, err
}

func (s *measuredStore) Admit(ctx context.Context, subject store.Subject, decide func([]store.Session, store.Fence) ([]store.Session, error)) error {
	began := s.m.cfg.Now()
	var step outcome.Step
	err := s.inner.Admit(ctx, subject, step.Watch(decide))
	s.m.called(opAdmit, began, step.Of(err))
	return err
}

func (s *measuredStore) List(ctx context.Context, f store.Filter, cursor string, limit int) ([]store.Session, string, error) {
	began := s.m.cfg.Now()
	page, next, err := s.inner.List(ctx, f, cursor, limit)
	s.m.called(opList, began, outcome.Of(err))
	return page, next, err
}

func (s *measuredStore) Due(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]store.Session, error) {
	began := s.m.cfg.Now()
	due, err := s.inner.Due(ctx, now, lease, limit)
	s.m.called(opDue, began, outcome.Of(err))
	return due, err
}

func (s *measuredStore) Delete(ctx context.Context, id string, revision int64) error {
	began := s.m.cfg.Now()
	err := s.inner.Delete(ctx, id, revision)
	s.m.called(opDelete, began, outcome.Of(err))
	return err
}

func (s *measuredStore) Stats(ctx context.Context) (store.Stats, error) {
	began := s.m.cfg.Now()
	stats, err := s.inner.Stats(ctx)
	s.m.called(opStats, began, outcome.Of(err))
	return stats, err
}

func (s *measuredStore) PutFence(ctx context.Context, f store.Fence) (store.Fence, error) {
	began := s.m.cfg.Now()
	put, err := s.inner.PutFence(ctx, f)
	s.m.called(opPutFence, began, outcome.Of(err))
	return put, err
}

func (s *measuredStore) MoveFence(ctx context.Context, f store.Fence, due time.Time) error {
	began := s.m.cfg.Now()
	err := s.inner.MoveFence(ctx, f, due)
	s.m.called(opMoveFence, began, outcome.Of(err))
	return err
}

func (s *measuredStore) DueFences(ctx context.Context, now time.Time, limit int) ([]store.Fence, error) {
	began := s.m.cfg.Now()
	due, err := s.inner.DueFences(ctx, now, limit)
	s.m.called(opDueFences, began, outcome.Of(err))
	return due, err
}

func (s *measuredStore) Document(ctx context.Context, key string) (store.Document, error) {
	began := s.m.cfg.Now()
	d, err := s.inner.Document(ctx, key)
	s.m.called(opDocument, began, outcome.Of(err))
	return d, err
}

func (s *measuredStore) PutDocument(ctx context.Context, d store.Document) (int64, error) {
	began := s.m.cfg.Now()
	version, err := s.inner.PutDocument(ctx, d)
	s.m.called(opPutDocument, began, outcome.Of(err))
	return version, err
}

func (s *measuredStore) History(ctx context.Context, key string, before int64, limit int) ([]store.Document, error) {
	began := s.m.cfg.Now()
	list, err := s.inner.History(ctx, key, before, limit)
	s.m.called(opHistory, began, outcome.Of(err))
	return list, err
}

func (s *measuredStore) DropDocument(ctx context.Context, key string) error {
	began := s.m.cfg.Now()
	err := s.inner.DropDocument(ctx, key)
	s.m.called(opDropDocument, began, outcome.Of(err))
	return err
}

func (s *measuredStore) AddCounts(ctx context.Context, counts []store.Count) error {
	began := s.m.cfg.Now()
	err := s.inner.AddCounts(ctx, counts)
	s.m.called(opAddCounts, began, outcome.Of(err))
	return err
}

func (s *measuredStore) ReadCounts(ctx context.Context, account string, from, to time.Time) ([]store.Count, error) {
	began := s.m.cfg.Now()
	list, err := s.inner.ReadCounts(ctx, account, from, to)
	s.m.called(opReadCounts, began, outcome.Of(err))
	return list, err
}

func (s *measuredStore) DropCounts(ctx context.Context, account string, before time.Time) error {
	began := s.m.cfg.Now()
	err := s.inner.DropCounts(ctx, account, before)
	s.m.called(opDropCounts, began, outcome.Of(err))
	return err
}

func (s *measuredStore) CountUnended(ctx context.Context, account string) (int, error) {
	began := s.m.cfg.Now()
	n, err := s.inner.CountUnended(ctx, account)
	s.m.called(opCountUnended, began, outcome.Of(err))
	return n, err
}
