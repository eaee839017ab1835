"""Attention, relevance and text maps over photographs: which regions a network uses.

python -m maskedclip.explain RUN_OR_WEIGHTS --images a.jpg,b.jpg --prompts "hard exudates,drusens"
python -m maskedclip.explain RUN_OR_WEIGHTS --dataset shards/idrid --count 8 --out maps
python -m maskedclip.explain RUN_OR_WEIGHTS --phantoms 300    # do maps point at drawn lesions?

Methods: rollout (attention through all layers, for any encoder), cls (the class token's attention
in the encoder's last block, a head and their mean), relevance (gradient times attention, of a
fine-tuned class or of a prompt) and text (cosine of each patch with a prompt; needs a text tower).
"""

if __name__ == "__main__":  # options first: --help and mistakes answer before torch is imported
    from maskedclip.command import log_lines, one_line_errors
    from maskedclip.explain.command import read_explain

    OPTIONS = read_explain(__doc__)
    log_lines()
    with one_line_errors():
        if OPTIONS.phantoms:
            from maskedclip.explain.pointing_game import play

            play(OPTIONS)
        else:
            from maskedclip.explain.overlays import explain

            explain(OPTIONS)
