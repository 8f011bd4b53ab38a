package main

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"kith/proto"
)

func newAuditCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Who asked for what of whom (admin)",
		Long: `Shows the audit log, oldest first: a line for each call about one person, and how
many look-ups, events and the like each key sent in a minute. Identities are told
by their keyed hash only; --identity finds the lines of one.`,
		Example: "  kith audit --client acme --since 24h --key ADMIN-KEY\n  kith audit --identity browser:x --since 30d --key ADMIN-KEY --json",
		Args:    noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	since := durationFlag(cmd, "since", 24*time.Hour, "how far back, such as 90m, 24h, 2d or 1w")
	identity := cmd.Flags().String("identity", "", "of this `IDENTITY` only")
	limit := numberFlag(cmd, "limit", 1000, 1, 1_000_000_000, "how many lines at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q := url.Values{"since": {time.Now().Add(-*since).UTC().Format(time.RFC3339)}, "limit": {"1000"}}
		if *identity != "" {
			q.Set("identity", *identity)
		}
		all := []proto.AuditRecord{}
		for more := true; more && len(all) < *limit; {
			var page proto.AuditPage
			if err := c.call(cmd.Context(), http.MethodGet, "/v1/audit", q, nil, &page); err != nil {
				return err
			}
			all, more = append(all, page.Records...), page.More
			q.Set("after", strconv.FormatUint(page.Next, 10))
		}
		all = all[:min(len(all), *limit)]
		if *asJSON {
			return printJSON(cmd, map[string]any{"records": all})
		}
		for _, r := range all {
			what := strconv.Itoa(r.Status) + "  " + r.Identity
			if r.Requests > 0 {
				what = strconv.FormatUint(r.Requests, 10) + " calls, " + strconv.FormatUint(r.Refused, 10) + " refused"
			} else if r.Count > 0 {
				what += strconv.Itoa(r.Count) + " identities"
			}
			printf(cmd, "%s  %-8s  %-6s  %-12s  %s  %s\n", r.Time.Format(time.RFC3339), r.Key, r.Role, r.Client, r.Route, what)
		}
		return nil
	}
	return cmd
}
