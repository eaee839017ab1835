"""A fine-tuned network on images of your own: a CSV of path, class, and a probability a class.

python -m maskedclip.predict RUN FOLDER --out predictions.csv

RUN is a fine-tuned run, or its finetuned.safetensors. FOLDER is a folder of images, searched whole,
one image, or a shard directory. Images are cropped to the field of view and reduced as make_shards
did for the images that RUN was trained on, so that the same image has the same probabilities as in
RUN/predictions. The same command goes on where it was stopped, and adds images that are new; what
cannot be read is listed with its reason beside the CSV.
"""

if __name__ == "__main__":  # options first: --help and mistakes answer before torch is imported
    from maskedclip.command import log_lines, one_line_errors
    from maskedclip.predict.command import read_predict

    OPTIONS = read_predict(__doc__)

    from maskedclip.predict.classify import run

    log_lines()
    with one_line_errors():
        run(OPTIONS)
