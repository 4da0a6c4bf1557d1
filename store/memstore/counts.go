package memstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/internal/hourly"
)

// hours are an account's counters by hour and name.
type hours map[int64]map[string]int64

// AddCounts implements [store.Counts].
func (m *Store) AddCounts(ctx context.Context, counts []store.Count) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("add counts: %w", err)
	}
	merged, err := hourly.Merge(counts)
	if err != nil {
		return fmt.Errorf("add counts: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range merged {
		account := m.counts[c.Account]
		if account == nil {
			account = hours{}
			m.counts[c.Account] = account
		}
		hour := hourly.Number(c.Hour)
		if account[hour] == nil {
			account[hour] = map[string]int64{}
		}
		account[hour][c.Name] += c.N
	}
	return nil
}

// ReadCounts implements [store.Counts].
func (m *Store) ReadCounts(ctx context.Context, account string, from, to time.Time) ([]store.Count, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read counts: %w", err)
	}
	first, end, err := hourly.Range(from, to)
	if err != nil {
		return nil, fmt.Errorf("read counts: %w", err)
	}
	var list []store.Count
	m.mu.RLock()
	defer m.mu.RUnlock()
	for hour := first; hour < end; hour++ {
		names := m.counts[account][hour]
		for name, n := range names {
			list = append(list, store.Count{Account: account, Hour: hourly.Time(hour), Name: name, N: n})
		}
		slices.SortFunc(list[len(list)-len(names):], func(a, b store.Count) int { return strings.Compare(a.Name, b.Name) })
	}
	return list, nil
}

// DropCounts implements [store.Counts].
func (m *Store) DropCounts(ctx context.Context, account string, before time.Time) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("drop counts: %w", err)
	}
	end := hourly.Number(before)
	m.mu.Lock()
	defer m.mu.Unlock()
	for hour := range m.counts[account] {
		if hour < end {
			delete(m.counts[account], hour)
		}
	}
	if len(m.counts[account]) == 0 {
		delete(m.counts, account)
	}
	return nil
}

// CountUnended implements [store.Counts].
func (m *Store) CountUnended(ctx context.Context, account string) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("count unended sessions: %w", err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := 0
	for _, block := range m.account(account).blocks {
		n += len(block)
	}
	return n, nil
}

// account returns the unended sessions of an account, to read.
func (m *Store) account(account string) *ordered[*entry] {
	if set := m.byAccount[account]; set != nil {
		return set
	}
	return &ordered[*entry]{compare: compareID}
}

// enterAccounts and leaveAccounts keep byAccount. The lock is held for writing.
func (m *Store) enterAccounts(e *entry) {
	for i, account := range e.session.Accounts {
		if slices.Contains(e.session.Accounts[:i], account) {
			continue
		}
		set := m.account(account)
		set.insert(e)
		m.byAccount[account] = set
	}
}

func (m *Store) leaveAccounts(e *entry) {
	for _, account := range e.session.Accounts {
		set := m.account(account)
		if set.remove(e); len(set.blocks) == 0 {
			delete(m.byAccount, account)
		}
	}
}
