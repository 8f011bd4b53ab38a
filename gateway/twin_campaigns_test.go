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

func (t *twin) Leakage(_ context.Context, client proto.ClientInfo, _, floor int) (proto.Leakage, error) {
	out := proto.Leakage{Client: client.Name, Hosts: []proto.ThirdParty{}, Withheld: floor}
	for _, h := range []string{"ads.example", "a.cdn.example", "b.a.cdn.example", "cdn.example", "notcdn.example", "evil.example", "x.ads.example"} {
		out.Hosts = append(out.Hosts, proto.ThirdParty{Host: h, Identities: uint64(floor), On: []string{}})
	}
	return out, nil
}
