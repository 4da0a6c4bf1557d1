package provider

import (
	"encoding/binary"
	"time"

	"github.com/curfew-oidc/curfew/provider/internal/seal"
	"github.com/curfew-oidc/curfew/store"
)

// A standing is how a presented refresh token stands to its grant.
type standing uint8

const (
	current  standing = iota // the newest one
	repeated                 // exchanged less than the grace ago: the newest answer again
	lost                     // the one before, after the grace, its successor never seen: the response was lost
	ahead                    // newer than the store knows: the store lost a rotation
	replayed                 // spent
)

// A tokenPlace is what a grant knows of a token: all that its standing rests on.
type tokenPlace struct {
	newest    bool      // it is the current one
	above     bool      // its generation is above the current one
	previous  bool      // the current one was made from it
	exchanged time.Time // when a successor was made of it; zero: nobody knows, or any more
	seen      bool      // the current one, or the access token beside it, was used
}

// A patience is what [Config] has for a token that is not the current one.
type patience struct {
	grace time.Duration // zero: none
	mends bool          // a response that was lost
}

func patienceOf(cfg Config) patience {
	p := patience{grace: cfg.Grace, mends: !cfg.NoLostResponse}
	if cfg.NoGrace {
		p.grace = 0
	}
	return p
}

// repeats reports whether what was exchanged at a time still gets its answer again.
func (p patience) repeats(exchanged, now time.Time) bool { return now.Before(exchanged.Add(p.grace)) }

// standing is the rule. A token that was exchanged within the grace, and all that
// came of it since, were issued within the grace to the same client: whoever has
// it could have had the newest answer in its turn.
func (p tokenPlace) standing(with patience, now time.Time) standing {
	switch {
	case p.newest:
		return current
	case p.above:
		return ahead
	case p.exchanged.IsZero():
		return replayed
	case with.repeats(p.exchanged, now):
		return repeated
	case p.previous && with.mends && !p.seen:
		return lost
	}
	return replayed
}

// placeIn finds a token in its grant. For one that was exchanged, from is the nonce of
// the token that the current one was made from: it opens the newest answer.
func placeIn(g *store.Grant, t *seal.RefreshToken) (p tokenPlace, from seal.Nonce) {
	p.seen = g.Used
	switch {
	case t.Generation == g.Generation && t.Nonce.Is(g.NonceHash):
		p.newest = true
	case t.Generation > g.Generation:
		p.above = true
	case t.Nonce.Is(g.FromHash):
		p.previous, p.exchanged, from = true, g.Rotated, t.Nonce
	default:
		p.exchanged, from = follow(g, t)
	}
	return p, from
}

// A chain of rotations that followed each other within the grace is kept as records
// of chainLink bytes: when, in microseconds, and the salt of the next nonce. maxChain
// bounds them: a client that refreshes more often than that in one grace has a
// fault that nobody can mend for it.
const (
	chainLink = 8 + 16
	maxChain  = 64
)

// follow leads from a token through the rotations after it to the nonce of the
// token before the current one, and returns when the first of them was. The time
// is zero if it leads nowhere: the token is too old, was void, or another version
// of this program has rotated in between.
func follow(g *store.Grant, t *seal.RefreshToken) (exchanged time.Time, from seal.Nonce) {
	back := g.Generation - t.Generation // which is not above
	if len(g.Chain)%chainLink != 0 || back > uint64(len(g.Chain)/chainLink) || back == 0 {
		return time.Time{}, from
	}
	links := g.Chain[len(g.Chain)-int(back)*chainLink:]
	at := time.UnixMicro(int64(binary.BigEndian.Uint64(links))).UTC()
	from = t.Nonce
	for ; len(links) > chainLink; links = links[chainLink:] {
		from = from.Next([16]byte(links[8:chainLink]))
	}
	if !from.Is(g.FromHash) {
		return time.Time{}, seal.Nonce{}
	}
	return at, from
}

// lengthened is the chain of a grant after one more rotation. What is older than the
// grace is left out: nothing leads from there any more.
func (p patience) lengthened(chain []byte, now time.Time, salt [16]byte) []byte {
	if p.grace == 0 {
		return nil
	}
	for len(chain) >= chainLink {
		at := time.UnixMicro(int64(binary.BigEndian.Uint64(chain)))
		if len(chain) < maxChain*chainLink && now.Before(at.Add(p.grace)) {
			break
		}
		chain = chain[chainLink:]
	}
	next := make([]byte, 0, len(chain)+chainLink)
	next = append(next, chain...)
	next = binary.BigEndian.AppendUint64(next, uint64(now.UnixMicro()))
	return append(next, salt[:]...)
}
