package main

import (
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kith/proto"
)

func newAggregatesCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "aggregates",
		Short: "Totals of each day, which name nobody and are kept for years",
		Long: `Prints how many events there were on each day (UTC), by their name or, of impressions,
clicks and conversions, by campaign, and how many identities were new. The totals stay
when the events go and when somebody opts out. Of fewer identities than the floor a
client's key is told nothing: their events are under "other".`,
		Example: `  kith aggregates --key demo-key
  kith aggregates --by campaign --from 2026-01-01 --to 2026-03-31 --key demo-key --json`,
		Args: noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	by := choiceFlag(cmd, "by", "event", "event or campaign", "event", "campaign")
	days := dayFlags(cmd, "first `DAY`, as 2026-11-27; default: 30 days", "last `DAY`; default: today")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		query := url.Values{"by": {*by}}
		days(query.Set)
		var out proto.Aggregates
		if err := c.call(cmd.Context(), http.MethodGet, "/v1/aggregates", query, nil, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		return printAggregates(cmd, out)
	}
	return cmd
}

func printAggregates(cmd *cobra.Command, a proto.Aggregates) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	campaigns := a.By == "campaign"
	if campaigns {
		fmt.Fprintln(w, "DAY\tCAMPAIGN\tIMPRESSIONS\tCLICKS\tCONVERSIONS")
	} else {
		fmt.Fprintln(w, "DAY\tEVENT\tCOUNT")
	}
	row := func(day proto.Day, name string, x proto.AggregateCounts) {
		if campaigns {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", day, name, toldOf(x.Impressions), toldOf(x.Clicks), toldOf(x.Conversions))
		} else {
			fmt.Fprintf(w, "%s\t%s\t%s\n", day, name, toldOf(x.Count))
		}
	}
	for _, d := range a.Days {
		if !campaigns {
			row(d.Day, "(all)", proto.AggregateCounts{Count: d.Events})
			row(d.Day, "(new identities)", proto.AggregateCounts{Count: d.NewIdentities})
		}
		for _, n := range d.Names {
			row(d.Day, n.Name, n.AggregateCounts)
		}
		if d.Other != nil {
			row(d.Day, "(other)", *d.Other)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printBelow(cmd, a.Below)
	printIncomplete(cmd, a.Partitions)
	return nil
}
