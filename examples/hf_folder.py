"""A published text classifier in a folder of Hugging Face: python hf_folder.py FOLDER."""

import sys

from sample_data import questions

import kdjax

teacher = kdjax.load(sys.argv[1])  # with its tokenizer, which is the data's too
student = {'model': 'bag_of_words', 'width': 16}
train, test = questions('train', 2000), questions('test', 500)
result = kdjax.distill(teacher, student, train, test, labels=0.05, steps=200, workdir='runs/hf_folder')
print(result.student.predict(['what shape is it?']))
