package gateway

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"kith/proto"
)

// leakageDays is what a report goes back unless asked otherwise.
const leakageDays = 30

// LeakageDaysMax is how many days a leakage report may go back.
const LeakageDaysMax = 366

// getLeakage answers GET /v1/leakage: the third parties that the client's tags saw
// on its pages.
func (g *Gateway) getLeakage(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, err := g.clientOf(who, r)
	if err != nil {
		return err
	}
	days := leakageDays
	if v := queryValue(r.URL.RawQuery, "days"); v != "" {
		if days, err = strconv.Atoi(v); err != nil || days < 1 || days > LeakageDaysMax {
			return proto.Errorf(proto.CodeInvalid, "days is %q: use 1 to %d", clip(v), LeakageDaysMax)
		}
	}
	if err := g.wait(r.Context(), queryValue(r.URL.RawQuery, "after")); err != nil {
		return err
	}
	unhurried(w)
	out, err := g.deps.Campaigns.Leakage(r.Context(), client, days, g.floorFor(who, client))
	if err != nil {
		return err
	}
	allowed := g.c.HostsAllowed[client.Name]
	for i := range out.Hosts {
		out.Hosts[i].Allowed = hostIn(out.Hosts[i].Host, allowed)
	}
	return writeValue(w, http.StatusOK, out)
}

// hostIn reports whether a list has a host, by its name or, as "*.example.com",
// with all hosts below another.
func hostIn(host string, list []string) bool {
	return slices.ContainsFunc(list, func(x string) bool {
		above, wild := strings.CutPrefix(x, "*")
		return host == x || wild && strings.HasSuffix(host, above) && len(host) > len(above)
	})
}
