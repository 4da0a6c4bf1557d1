package main

import (
	"fmt"
	"strings"
)

func (p *storesPart) bars() []bar {
	var bars []bar
	for _, c := range p.comparisons {
		bars = append(bars,
			bar{"A session's Get and Update on " + c.engine + ", against a bare read and durable write of a row",
				fmt.Sprintf("%.2f times", c.slower()), fmt.Sprintf("%.1f times", maxSlower), c.slower() > 0 && c.slower() <= maxSlower},
			bar{fmt.Sprintf("The same by %d clients on %s, share of the bare driver's throughput", manyClients, c.engine),
				fmt.Sprintf("%.0f %%", 100*c.share()), fmt.Sprintf("at least %.0f %%", 100*minShare), c.share() >= minShare},
		)
	}
	for _, engine := range engineNames {
		compared := engine == "memory" // which has no driver
		for _, c := range p.comparisons {
			compared = compared || c.engine == engine
		}
		if !compared {
			bars = append(bars, bar{"The store on " + engine, "not measured", "measured", false})
		}
	}
	return bars
}

// String returns the part in Markdown.
func (p *storesPart) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s for each number of clients.\n\n", p.machine, p.size.window)
	b.WriteString("| store | flow | clients | per second | p50 | p99 | inside of store calls | CPU time of one: provider | engine | engine's share |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|\n")
	for _, l := range p.loads {
		engine, share := "in the provider's", "–"
		if l.apart {
			engine = micro(l.engines)
			share = fmt.Sprintf("%.0f %%", 100*float64(l.engines)/float64(max(1, l.own+l.engines)))
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %.0f | %s | %s | %.0f %% | %s | %s | %s |\n", l.engine, l.flow, l.clients,
			l.rate.perSecond, micro(l.rate.p50), micro(l.rate.p99), 100*l.inStore, micro(l.own), engine, share)
	}
	fmt.Fprintf(&b, "\n| store | document | bare read and write | Get and Update | by %d clients, bare, per second | Get and Update, per second |\n", manyClients)
	b.WriteString("|---|---|---|---|---|---|\n")
	for _, c := range p.comparisons {
		fmt.Fprintf(&b, "| %s | %d bytes | %s | %s | %.0f | %.0f |\n", c.engine, c.bytes,
			micro(median(c.alone.a)), micro(median(c.alone.b)), median(c.bare), median(c.store))
	}
	writeBars(&b, p.bars())
	return b.String()
}

func (p *crowdsPart) bars() []bar {
	var bars []bar
	for _, c := range p.crowds {
		growth := float64(median(c.refresh.b)) / float64(median(c.refresh.a))
		bars = append(bars, bar{fmt.Sprintf("A refresh with %d sessions on %s, against %d", c.many, c.engine, c.few),
			fmt.Sprintf("%.2f", growth), fmt.Sprint(maxGrowth), growth > 0 && growth <= maxGrowth})
	}
	for _, engine := range engineNames {
		measured := engine == "memory" // which is another part's
		for _, c := range p.crowds {
			measured = measured || c.engine == engine
		}
		if !measured {
			bars = append(bars, bar{"A refresh with many sessions on " + engine, "not measured", "measured", false})
		}
	}
	return bars
}

// String returns the part in Markdown.
func (p *crowdsPart) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d runs of %d pairs.\n\n", p.machine, p.size.runs, p.size.steps)
	fmt.Fprintf(&b, "| store | sessions | refresh with %d | with all | Get and Update of any one, of %[1]d | of all | sessions per GB | swept by `Hook.Sweep` | per second |\n", fewSessions)
	b.WriteString("|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range p.crowds {
		swept := fmt.Sprintf("the first %d in %.1f s", c.swept, c.sweeping.Seconds())
		if c.swept >= c.many {
			swept = fmt.Sprintf("all in %.1f s", c.sweeping.Seconds())
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s | %.0f | %s | %.0f |\n", c.engine, c.many,
			micro(median(c.refresh.a)), micro(median(c.refresh.b)), micro(median(c.anywhere.a)), micro(median(c.anywhere.b)),
			1e9/c.perSession, swept, float64(c.swept)/c.sweeping.Seconds())
	}
	writeBars(&b, p.bars())
	return b.String()
}
