"""The page: what can be picked, and what happens when it is."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.themes import Base, Font

from frametx.app_sessions import AUGMENTATIONS, Sessions, described, separated, stems_of, told
from frametx.app_studio import Studio
from frametx.audio.stem_files import FORMATS
from frametx.pipeline import INSTRUMENTAL

RULES = [
    ("mean", "mean"),
    ("median", "median"),
    ("minimum: only what all models find of a stem", "min"),
    ("maximum: what any model finds of a stem", "max"),
    ("weighted mean", "weighted"),
]
QUALITIES = [
    ("fast", "fast"),
    ("balanced", "balanced"),
    ("best (takes many times as long)", "best"),
]
NOWHERE = ("no stem", "")
CSS = """
.frametx-bar { width: 100%; height: 1.25rem; appearance: none; border: none; background: #d4d4d8; }
.frametx-bar::-webkit-progress-bar { background: #d4d4d8; }
.frametx-bar::-webkit-progress-value { background: #ea580c; }
.frametx-bar::-moz-progress-bar { background: #ea580c; }
.frametx-error { border-left: 0.3rem solid #dc2626; padding: 0.5rem 0.75rem; }
.frametx-stem { margin: 0 0 1rem 0; }
.frametx-stem audio { width: 100%; display: block; margin: 0.25rem 0; }
.frametx-stem h3 { margin: 0; }
.frametx-picture { width: 100%; height: auto; }
.frametx-results a, .frametx-results a:visited { color: inherit; text-decoration: underline; }
"""


def theme() -> Base:
    """The default one in the system's fonts, so that none is fetched."""
    return Base(
        primary_hue="orange",
        font=[Font("system-ui"), Font("sans-serif")],
        font_mono=[Font("ui-monospace"), Font("monospace")],
    )


def least(stem: str) -> str:
    """What `min_<stem>` is for."""
    return f"minimum of {stem}: least of the others left in it"


def build_page(studio: Studio, sessions: Sessions) -> gr.Blocks:
    """The page, ready to be launched."""
    names = list(studio.checkpoints)
    first = names if len(names) == 1 else []
    with gr.Blocks(title="frametx", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown("# Take a song apart")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                song = gr.File(label="Song (audio, or a video with sound)", elem_id="song")
                models = gr.Dropdown(
                    names, value=first, multiselect=True, label="Models", elem_id="models"
                )
                about = gr.HTML(elem_id="about")
                rule = gr.Dropdown(
                    RULES, value="mean", label="How the models are combined", visible=False
                )
                weights = gr.Textbox(
                    label="Weights of the models, in their order",
                    placeholder="1, 2, 2",
                    visible=False,
                )
                quality = gr.Radio(QUALITIES, value="balanced", label="Quality")
                format = gr.Radio(
                    [("same as the song", FORMATS[0]), *((name, name) for name in FORMATS[1:])],
                    value=FORMATS[0],
                    label="Format of the stems",
                )
                stems = gr.CheckboxGroup([], label="Stems to keep", elem_id="stems")
                with gr.Accordion("Advanced", open=False):
                    aggressiveness = gr.Slider(
                        0.0,
                        4.0,
                        value=1.0,
                        step=0.1,
                        label="Aggressiveness",
                        info="1 changes nothing; more takes more of the others out of the stem",
                    )
                    aggressiveness_stem = gr.Dropdown([], label="Aggressiveness of which stem")
                    wiener = gr.Slider(0, 5, value=0, step=1, label="Wiener filter, iterations")
                    absent_stem = gr.Dropdown(
                        [NOWHERE],
                        value=NOWHERE[1],
                        label="Leave the others untouched where this stem is absent",
                    )
                    augmentation = gr.Radio(
                        list(AUGMENTATIONS),
                        value="as the quality says",
                        label="Test-time augmentation",
                        info="mean over exchanged channels, inverted polarity and shifted chunks",
                    )
                with gr.Row():
                    start = gr.Button("Separate", variant="primary", elem_id="separate")
                    stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="stop")
            with gr.Column(scale=3, min_width=320):
                status = gr.HTML(elem_id="status")
                results = gr.HTML(elem_id="results")

        offered = gr.State(())

        def picked(names: list[str], before: tuple[str, ...]) -> list[Any]:
            found = stems_of(studio, names)
            shown = [described(studio, names), gr.update(visible=len(names) > 1)]
            if found == before:  # what was chosen of them stays
                return [*shown, *[gr.skip()] * 3, found]
            rules = [*RULES, *((least(stem), f"min_{stem}") for stem in found)]
            shown[1] = gr.update(visible=len(names) > 1, choices=rules, value="mean")
            clearest = INSTRUMENTAL if INSTRUMENTAL in found else next(iter(found), None)
            return [
                *shown,
                gr.update(choices=list(found), value=list(found)),
                gr.update(choices=list(found), value=clearest),
                gr.update(choices=[NOWHERE, *found], value=NOWHERE[1]),
                found,
            ]

        def weigh(names: list[str], rule: str) -> Any:
            return gr.update(visible=len(names) > 1 and rule == "weighted")

        def opened() -> Any:
            studio.look_again()
            return gr.update(choices=list(studio.checkpoints))

        def begin(request: gr.Request) -> tuple[str, str, Any, Any]:
            sessions.begin(str(request.session_hash))
            return told("starting"), "", gr.update(interactive=False), gr.update(interactive=True)

        def run(request: gr.Request, *values: Any) -> Iterator[tuple[Any, Any]]:
            for status, results in separated(studio, sessions, str(request.session_hash), *values):
                yield status, gr.skip() if results is None else results

        def end() -> tuple[Any, Any]:
            return gr.update(interactive=True), gr.update(interactive=False)

        def halt(request: gr.Request) -> None:
            sessions.stop(str(request.session_hash))

        def leave(request: gr.Request) -> None:
            sessions.forget(str(request.session_hash))

        chosen = [song, models, rule, weights, quality, format, stems]
        chosen += [aggressiveness, aggressiveness_stem, wiener, absent_stem, augmentation]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        of_stems = [stems, aggressiveness_stem, absent_stem, offered]
        gr.on(
            [models.change, page.load],
            picked,
            [models, offered],
            [about, rule, *of_stems],
            **private,
        )
        gr.on([models.change, rule.change], weigh, [models, rule], weights, **private)
        page.load(opened, None, models, **private)
        began = start.click(begin, None, [status, results, start, stop], queue=False, **private)
        ran = began.then(run, chosen, [status, results], concurrency_limit=None, **private)
        ran.then(end, None, [start, stop], queue=False, **private)
        stop.click(halt, None, None, queue=False, **private)
        page.unload(leave)
    return page
