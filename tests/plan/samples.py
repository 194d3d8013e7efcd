"""Sites to plan, without a network around them."""

from kronexport.records import ConvGeometry, Site, Skipped, Survey


def site(name: str, filters: int, channels: int, kernel: int = 3, group: int = 1) -> Site:
    """A conv of images 14x14 at stride 1 that keeps their size, with a bias."""
    weight = filters * channels // group * kernel**2
    return Site(
        name=name,
        batch=1,
        in_channels=channels,
        out_channels=filters,
        geometry=ConvGeometry((kernel, kernel), (1, 1), (kernel // 2,) * 4, (1, 1), group),
        input_size=(14, 14),
        output_size=(14, 14),
        has_bias=True,
        params=weight + filters,
        macs=weight * 14 * 14,
        share=0.5,
    )


def surveyed(*sites: Site) -> Survey:
    """A network of these sites, a depthwise conv ``dw``, and 1,000 params and MACs more."""
    skipped = (Skipped("dw", "is depthwise"),)
    return Survey(sites, skipped, sum(s.params for s in sites) + 1000, sum(s.macs for s in sites) + 1000)
