package main

import (
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kith/proto"
)

func newSegmentsSizesCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sizes ID",
		Short: "How many were in a segment at the end of each day",
		Long:  "Prints how many identities were in a segment when each day (UTC) ended, and today's\nso far; the last 30 days unless --from and --to say otherwise.",
		Example: `  kith segments sizes auto --key demo-key
  kith segments sizes auto --from 2026-01-01 --to 2026-03-31 --key demo-key --json`,
		Args: exactly(1, "a segment's id"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	days := dayFlags(cmd, "first `DAY`, as 2026-11-27", "last `DAY`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		query := url.Values{}
		days(query.Set)
		var out struct {
			ID    proto.SegmentID `json:"id"`
			Sizes []proto.DaySize `json:"sizes"`
		}
		if err := c.call(cmd.Context(), http.MethodGet, segmentPath(args[0])+"/sizes", query, nil, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "DAY\tIDENTITIES")
		for _, d := range out.Sizes {
			fmt.Fprintf(w, "%s\t%s%s\n", d.Day, countOf(d.Identities, d.Below), soFar(d))
		}
		return w.Flush()
	}
	return cmd
}

func soFar(d proto.DaySize) string {
	switch {
	case d.SoFar:
		return " so far"
	case d.Partitions != nil:
		return fmt.Sprintf(" of %d of %d partitions", d.Partitions.Answered, d.Partitions.Of)
	}
	return ""
}
