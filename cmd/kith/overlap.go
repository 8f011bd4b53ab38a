package main

import (
	"fmt"
	"net/http"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kith/proto"
)

func newAudienceOverlapCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "overlap SEGMENT…",
		Short: "How many are in each pair of segments",
		Long:  "Counts who is in both of each pair of segments; the diagonal is their sizes.\nWith --all, who is in each of the segments and in each of all there are.",
		Example: `  kith audience overlap auto buyers lively --key demo-key
  kith audience overlap auto --all --key demo-key --json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("name one or more segments")
			}
			return nil
		},
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	all := cmd.Flags().Bool("all", false, "against all segments")
	unit := unitFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in := map[string]any{"segments": args, "unit": *unit}
		if *all {
			in["against"] = "all"
		}
		var out proto.Overlap
		if err := c.call(cmd.Context(), http.MethodPost, "/v1/audiences/overlap", nil, in, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		return printOverlap(cmd, out)
	}
	return cmd
}

// printOverlap prints a table with a line for each of the longer side.
func printOverlap(cmd *cobra.Command, o proto.Overlap) error {
	lines := o.Against
	if lines == nil {
		lines = o.Segments
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, id := range o.Segments {
		fmt.Fprintf(w, "\t%s", id)
	}
	fmt.Fprintln(w, "\t")
	for j, id := range lines {
		fmt.Fprint(w, id)
		for i := range o.Segments {
			fmt.Fprintf(w, "\t%s", countOf(o.Counts[i][j], o.Below))
		}
		fmt.Fprintln(w, "\t")
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printInexact(cmd, o.Exact, o.Partitions)
	return nil
}

// countOf is a count as people read it.
func countOf(n *uint64, below int) string {
	if n == nil {
		return fmt.Sprintf("<%d", below)
	}
	return fmt.Sprint(*n)
}

// printInexact is printIncomplete of counts of segments, and says that they are not exact.
func printInexact(cmd *cobra.Command, exact bool, a proto.Answered) {
	printIncomplete(cmd, a)
	if !exact {
		printf(cmd, "not exact: history has not been gone through for a segment, or a lane has stopped\n")
	}
}

func printIncomplete(cmd *cobra.Command, a proto.Answered) {
	if a.Answered != a.Of {
		printf(cmd, "incomplete: %d of %d partitions answered\n", a.Answered, a.Of)
	}
}
