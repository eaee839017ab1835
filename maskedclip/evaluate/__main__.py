"""What an encoder knows without fine-tuning: probes on its frozen features, and its text tower.

python -m maskedclip.evaluate RUN_OR_WEIGHTS --datasets shards/idrid,shards/retina
python -m maskedclip.evaluate RUN_OR_WEIGHTS --datasets paper --fractions 0.1,1.0 --seeds 5
python -m maskedclip.evaluate A,B,A+B --datasets paper --protocols zeroshot,knn,logistic,linear

Several encoders, A,B,C, are put into one table, with intervals and paired tests; A+B among them is
an ensemble: both features side by side. Each has its rows in OUT/NAME.

DATASETS are shard directories, folders of images (train/val/test/CLASS), or "paper": those of the
paper's seven that are under --shards. PROTOCOLS, the knob of each chosen on validation images:

logistic   logistic regression (scikit-learn) on the mean of the patch tokens; its penalty
linear     MAE's linear probe (batch norm and a linear layer, by SGD); its learning rate
attentive  a learnt query over all patch tokens (AIM's head, by AdamW); rate and weight decay
knn        DINOv2's weighted nearest neighbours; their number
zeroshot   the nearest class by the mean of its captions; needs weights with a text tower
transfer   a fine-tuned run itself, on datasets that it was not trained on: the classes that both
           have, matched by name; --whole tests on all labelled images in place of the test split

--shots=1,4,16 adds logistic regression on so many labels of each class. An evaluation (protocol,
fraction, seed) that is in OUT is not run again. Features are kept in OUT/features.
"""

if __name__ == "__main__":  # options first: --help and mistakes answer before torch is imported
    from maskedclip.command import log_lines, one_line_errors
    from maskedclip.finetune.command import read_evaluate

    OPTIONS = read_evaluate(__doc__)

    from maskedclip.evaluate.several import run_all

    log_lines()
    with one_line_errors():
        run_all(OPTIONS)
