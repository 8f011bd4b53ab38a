package main

import (
	"fmt"
	"net/http"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kith/proto"
)

func newCampaignCommand(c *connection) *cobra.Command {
	cmd := asGroup(&cobra.Command{
		Use:     "campaign",
		Short:   "What became of a campaign, in numbers that name nobody",
		Example: "  kith campaign report spring --key demo-key",
	})
	cmd.AddCommand(newCampaignReportCommand(c))
	return cmd
}

func newCampaignReportCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report CAMPAIGN",
		Short: "Reach, frequency, clicks and conversions of a campaign",
		Long: `Counts, from the events that are kept, the impressions and clicks whose property
campaign is CAMPAIGN: how many there were, whom they reached, how often, and who
converted within a window after the last one. It is of the last 30 days unless --from
and --to say otherwise. Of fewer people than the floor a client's key is told nothing.`,
		Example: `  kith campaign report spring --key demo-key
  kith campaign report spring --from 2026-11-01 --to 2026-11-30 --by creative --unit users --key demo-key
  kith campaign report spring --conversion 'event.name == "order" && event.price >= 10' --window 14d --key demo-key --json`,
		Args: exactly(1, "one campaign"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	var x proto.CampaignRequest
	f := cmd.Flags()
	days := dayFlags(cmd, "first `DAY`, as 2026-11-27", "last `DAY`")
	unit := unitFlag(cmd)
	f.StringVar(&x.By, "by", "", "a `PROPERTY` of impressions and clicks to tell apart, such as creative")
	f.StringVar(&x.Conversion, "conversion", "", "`CONDITION` on an event that is a conversion (default event.name == \"conversion\")")
	f.StringVar(&x.Window, "window", "", "how long after an impression or click an event is a conversion (default 7d)")
	f.StringVar(&x.Impression, "impression", "", "the `NAME` of events that are impressions (default impression)")
	f.StringVar(&x.Click, "click", "", "the `NAME` of events that are clicks (default click)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		x.Campaign, x.Unit = args[0], *unit
		in := map[string]any{"campaign": x.Campaign, "unit": x.Unit, "by": x.By, "conversion": x.Conversion, "window": x.Window, "impression": x.Impression, "click": x.Click}
		days(func(name, day string) { in[name] = day })
		var out proto.CampaignReport
		if err := c.call(cmd.Context(), http.MethodPost, "/v1/campaigns/report", nil, in, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		return printCampaign(cmd, out)
	}
	return cmd
}

func printCampaign(cmd *cobra.Command, r proto.CampaignReport) error {
	printf(cmd, "%s, %s to %s, by %s\n", r.Campaign, r.From, r.To, r.Unit)
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\tIMPRESSIONS\tREACH\tCLICKS\tCLICKERS\tCONVERSIONS\tCONVERTERS\n", "DAY")
	row := func(name string, x proto.CampaignCounts) {
		fmt.Fprint(w, name)
		for _, n := range []*uint64{x.Impressions, x.Reach, x.Clicks, x.Clickers, x.Conversions, x.Converters} {
			fmt.Fprintf(w, "\t%s", toldOf(n))
		}
		fmt.Fprintln(w)
	}
	untold := 0
	for _, d := range r.Days {
		if d.CampaignCounts == (proto.CampaignCounts{}) {
			untold++
			continue
		}
		row(d.Day.String(), d.CampaignCounts)
	}
	row("all", r.CampaignCounts)
	for _, v := range r.Values {
		row(r.By+" "+v.Value, v.CampaignCounts)
	}
	if r.Other != nil {
		row("other "+r.By, *r.Other)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, b := range r.Frequency {
		printf(cmd, "%s impressions: %d\n", binOf(b), b.People)
	}
	if r.ClickThrough != nil {
		printf(cmd, "click-through: %.2f %%\n", 100**r.ClickThrough)
	}
	if untold > 0 {
		printf(cmd, "%d days of which nothing is told are left out\n", untold)
	}
	printBelow(cmd, r.Below)
	if r.Truncated {
		printf(cmd, "not exact: of some the oldest events were dropped\n")
	}
	if r.KeptSince != nil {
		printf(cmd, "not exact: events are kept since %s\n", r.KeptSince)
	}
	printIncomplete(cmd, r.Partitions)
	return nil
}

// printBelow says what a dash is, if there may be some.
func printBelow(cmd *cobra.Command, below int) {
	if below > 0 {
		printf(cmd, "- : fewer than %d people, or kept back so that they cannot be had by subtraction\n", below)
	}
}

// toldOf is a number, or that it is not told.
func toldOf(n *uint64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

func binOf(b proto.FrequencyBin) string {
	switch {
	case b.To == 0:
		return fmt.Sprintf("%d or more", b.From)
	case b.To == b.From:
		return fmt.Sprint(b.From)
	}
	return fmt.Sprintf("%d to %d", b.From, b.To)
}
