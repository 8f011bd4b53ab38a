package main

import (
	"fmt"
	"net/http"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kith/proto"
)

// reachMax is how many audiences a reach may have: each takes three counts.
const reachMax = 33

// reachBytesMax is what a node takes of expressions in one question. A reach's grow
// with the square of its audiences, for each union has those before it.
const reachBytesMax = 64 << 10

// reachStep is one audience of a reach.
type reachStep struct {
	Expr  string  `json:"expr"`
	Count *uint64 `json:"count"` // its own
	Reach *uint64 `json:"reach"` // with those before it
	Adds  *uint64 `json:"adds"`  // what it adds to those before it
	Below int     `json:"below,omitempty"`
}

// reachAnswer is the reach of a union.
type reachAnswer struct {
	Steps      []reachStep    `json:"steps"`
	Reach      *uint64        `json:"reach"`
	Exact      bool           `json:"exact"`
	Partitions proto.Answered `json:"partitions"`
}

func newAudienceReachCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reach EXPR…",
		Short: "How many a union reaches, and what each audience adds",
		Long:  "Counts each audience, and what it adds to those before it, all in one answer.",
		Example: `  kith audience reach auto sport-today 'buyers & lively' --key demo-key
  kith audience reach auto sport-today --unit users --key demo-key --json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > reachMax {
				return usagef("name 1 to %d audiences, each in quotes", reachMax)
			}
			return nil
		},
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	unit := unitFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		exprs, err := reachExprs(args)
		if err != nil {
			return err
		}
		var out proto.Counts
		in := map[string]any{"exprs": exprs, "unit": *unit}
		if err := c.call(cmd.Context(), http.MethodPost, "/v1/audiences/count", nil, in, &out); err != nil {
			return err
		}
		answer, err := reachOf(args, out)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, answer)
		}
		return printReach(cmd, answer)
	}
	return cmd
}

// reachExprs are three for each audience: it, it and those before, and it
// without those before. The node counts the last too, so that the floor holds.
func reachExprs(exprs []string) (list []string, err error) {
	union := ""
	for i, e := range exprs {
		if i == 0 {
			list, union = append(list, e, e, e), "("+e+")"
			continue
		}
		adds := "(" + e + ") & !(" + union + ")"
		union += " | (" + e + ")"
		list = append(list, e, union, adds)
	}
	bytes := 0
	for _, e := range list {
		bytes += len(e)
	}
	if bytes > reachBytesMax {
		return nil, usagef("the unions of these %d audiences come to %d bytes, at most %d are counted at once: name fewer audiences, or save them (`kith audience save`) and use @names", len(exprs), bytes, reachBytesMax)
	}
	return list, nil
}

// reachOf reads the counts of reachExprs.
func reachOf(exprs []string, c proto.Counts) (out reachAnswer, err error) {
	if len(c.Counts) != 3*len(exprs) {
		return out, proto.Errorf(proto.CodeInvalid, "the node answered %d counts of %d", len(c.Counts), 3*len(exprs))
	}
	out.Exact, out.Partitions = c.Exact, c.Partitions
	for i, e := range exprs {
		own, union, adds := c.Counts[3*i], c.Counts[3*i+1], c.Counts[3*i+2]
		out.Steps = append(out.Steps, reachStep{
			Expr: e, Count: own.Count, Reach: union.Count, Adds: adds.Count, Below: max(own.Below, union.Below, adds.Below),
		})
		out.Reach = union.Count
	}
	return out, nil
}

func printReach(cmd *cobra.Command, r reachAnswer) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "AUDIENCE\tCOUNT\tADDS\tREACH")
	for _, s := range r.Steps {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Expr, countOf(s.Count, s.Below), countOf(s.Adds, s.Below), countOf(s.Reach, s.Below))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printInexact(cmd, r.Exact, r.Partitions)
	return nil
}
