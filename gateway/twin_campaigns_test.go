package gateway_test

import (
	"context"

	"kith/proto"
)

// The twin echoes what it was asked with; the floor is in Below.

func (t *twin) CampaignReport(_ context.Context, _ proto.ClientInfo, r *proto.CampaignRequest, floor int) (proto.CampaignReport, error) {
	if r.Campaign == "" {
		return proto.CampaignReport{}, proto.Errorf(proto.CodeInvalid, "no campaign")
	}
	return proto.CampaignReport{Campaign: r.Campaign, From: r.From, To: r.To, Unit: r.Unit, By: r.By, Below: floor}, nil
}

func (t *twin) Aggregates(_ context.Context, _ proto.ClientInfo, by string, first, last proto.Day, floor int) (proto.Aggregates, error) {
	return proto.Aggregates{By: by, Days: []proto.AggregateDay{{Day: first}, {Day: last}}, Below: floor}, nil
}
