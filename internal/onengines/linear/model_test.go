package linear

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// sessionCap is how many sessions the logins of a history leave unended.
const sessionCap = 3

// A version is what the model knows of one session: enough to tell each write
// from each other.
type version struct {
	id       string
	revision int64
	started  int // the order in which sessions began
	tag      int // the number of the call that wrote it
	ended    bool
}

// A state is all sessions of the subject by their IDs. It is never changed.
type state map[string]version

func (s state) with(changed ...version) state {
	next := maps.Clone(s)
	for _, v := range changed {
		next[v.id] = v
	}
	return next
}

// unended returns the sessions that have not ended, in ascending order of ID.
func (s state) unended() []version {
	return s.where(func(v version) bool { return !v.ended })
}

func (s state) where(wanted func(version) bool) []version {
	var list []version
	for _, v := range s {
		if wanted(v) {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b version) int { return strings.Compare(a.id, b.id) })
	return list
}

// A kind is what a call does.
type kind string

const (
	create      kind = "create"
	admitRefuse kind = "admit, refuse"     // a login at the cap is refused
	admitEvict  kind = "admit, end oldest" // a login at the cap ends the oldest session
	admitTouch  kind = "admit, touch all"  // a step that writes all sessions back
	refresh     kind = "refresh"
	end         kind = "end"
	get         kind = "get"
	listUnended kind = "list unended"
	listAny     kind = "list any"
	remove      kind = "delete"
)

// A call is what a client asked for. Its number is the tag of what it writes.
type call struct {
	kind   kind
	number int
	write  version // of create and the logins; of refresh and end with the revision to replace
	at     int64   // of delete: the revision
}

// An outcome is what the client was told.
type outcome string

const (
	done     outcome = "done"
	notFound outcome = "not found"
	conflict outcome = "conflict"
	exists   outcome = "exists"
	full     outcome = "full"
	refused  outcome = "refused" // by the step of a login

	// over is what a refresh is told of a session that has ended. It knows the
	// revision all the same if it saw the one before of that ID, which was deleted.
	over outcome = "has ended"

	// unknown is any other error: the call may have taken effect, or may yet.
	unknown outcome = "unknown"
)

// An answer is what a call returned.
type answer struct {
	outcome  outcome
	revision int64     // of refresh and end: the new one
	seen     []version // of get and the lists; of a login what its step was given last
	looked   bool      // of a login: its step was run
}

// model is a store of one subject. What a call does depends on the state alone,
// so a call whose outcome is unknown is one that is answered in any way, at some
// time after it was made: if it never happened, that is after all others.
var model = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(s, input, output any) (bool, any) {
		now, c, a := s.(state), input.(call), output.(answer)
		next, want := now.step(c)
		switch {
		case a.outcome == unknown:
			return true, next
		case a.outcome == conflict && want.looked:
			// An admission that gave up: it changed nothing, and what it saw
			// was overtaken.
			return true, now
		case a.outcome != want.outcome || a.revision != want.revision || a.looked != want.looked || !slices.Equal(a.seen, want.seen):
			return false, now
		}
		return true, next
	},
	Equal: func(a, b any) bool { return maps.Equal(a.(state), b.(state)) },
	Hash: func(s any) uint64 {
		var sum uint64
		for _, v := range s.(state) {
			sum += uint64(v.tag+1) * uint64(v.revision) * 0x9e3779b97f4a7c15
		}
		return sum
	},
	DescribeOperation: func(input, output any) string { return describe(input.(call), output.(answer)) },
}

// step returns what becomes of the state, and the answer.
func (s state) step(c call) (state, answer) {
	old, known := s[c.write.id]
	added := c.write
	added.revision, added.tag = 1, c.number
	switch c.kind {
	case create:
		switch {
		case known:
			return s, answer{outcome: exists}
		case len(s.unended()) >= sessionCap:
			return s, answer{outcome: full}
		}
		return s.with(added), answer{outcome: done}
	case admitRefuse, admitEvict, admitTouch:
		return s.admit(c, added)
	case refresh, end:
		switch {
		case !known:
			return s, answer{outcome: notFound}
		case old.revision != c.write.revision:
			return s, answer{outcome: conflict}
		case old.ended && !c.write.ended:
			return s, answer{outcome: over}
		}
		next := c.write
		next.revision, next.tag = old.revision+1, c.number
		return s.with(next), answer{outcome: done, revision: next.revision}
	case get:
		if !known {
			return s, answer{outcome: notFound}
		}
		return s, answer{outcome: done, seen: []version{old}}
	case listUnended:
		return s, answer{outcome: done, seen: s.unended()}
	case listAny:
		return s, answer{outcome: done, seen: s.where(func(version) bool { return true })}
	case remove:
		switch {
		case !known:
			return s, answer{outcome: done}
		case old.revision != c.at:
			return s, answer{outcome: conflict}
		}
		next := maps.Clone(s)
		delete(next, c.write.id)
		return next, answer{outcome: done}
	}
	panic("unknown kind of call " + c.kind)
}

func (s state) admit(c call, added version) (state, answer) {
	held := s.unended()
	a := answer{outcome: done, seen: held, looked: true}
	var changed []version
	if c.kind == admitTouch {
		for _, v := range held {
			v.revision, v.tag = v.revision+1, c.number
			changed = append(changed, v)
		}
		return s.with(changed...), a
	}
	old, known := s[added.id]
	if known && !old.ended {
		a.outcome = exists
		return s, a
	}
	if len(held) >= sessionCap && c.kind == admitRefuse {
		a.outcome = refused
		return s, a
	}
	if known {
		a.outcome = exists
		return s, a
	}
	byAge := slices.Clone(held)
	slices.SortFunc(byAge, func(a, b version) int { return a.started - b.started })
	for _, v := range byAge[:max(0, len(byAge)+1-sessionCap)] {
		v.ended, v.revision, v.tag = true, v.revision+1, c.number
		changed = append(changed, v)
	}
	return s.with(append(changed, added)...), a
}

func (v version) String() string {
	text := fmt.Sprintf("%s@%d by #%d", v.id[len(v.id)-2:], v.revision, v.tag)
	if v.ended {
		text += " (ended)"
	}
	return text
}

func describe(c call, a answer) string {
	text := fmt.Sprintf("#%d %s", c.number, c.kind)
	switch c.kind {
	case refresh, end:
		text += " " + c.write.id[len(c.write.id)-2:] + fmt.Sprintf("@%d", c.write.revision)
	case remove:
		text += " " + c.write.id[len(c.write.id)-2:] + fmt.Sprintf("@%d", c.at)
	case create, get, admitRefuse, admitEvict:
		text += " " + c.write.id[len(c.write.id)-2:]
	}
	text += ": " + string(a.outcome)
	if len(a.seen) > 0 {
		text += fmt.Sprintf(", saw %v", a.seen)
	}
	return text
}

// history tells of operations in the order of their calls.
func history(ops []porcupine.Operation) string {
	var b strings.Builder
	for _, op := range slices.SortedFunc(slices.Values(ops), func(a, b porcupine.Operation) int { return int(a.Call - b.Call) }) {
		until := "never"
		if op.Return != forever {
			until = time.Duration(op.Return).String()
		}
		fmt.Fprintf(&b, "client %d, %s to %s: %s\n", op.ClientId, time.Duration(op.Call), until, describe(op.Input.(call), op.Output.(answer)))
	}
	return b.String()
}
